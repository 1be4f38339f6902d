//! The Linux console (`TERM=linux`) has a font of 256 or 512 characters, in most of which the eighths of a block, the
//! small triangles and other ornaments are missing.

use ratatui::buffer::Buffer;

/// Each character that is drawn, and its substitute in code page 437, which console fonts have.
const CONSOLE: [(&str, &str); 14] = [
    ("▁", "_"),
    ("▂", "_"),
    ("▃", "▄"),
    ("▅", "▄"),
    ("▆", "█"),
    ("▇", "█"),
    ("▏", "_"),
    ("┃", "║"),
    ("▾", "-"),
    ("▸", "+"),
    ("▴", "^"),
    ("›", ">"),
    ("●", "*"),
    ("…", "~"),
];

/// Replaces characters that the console's font does not have.
pub fn of_the_console(screen: &mut Buffer) {
    for cell in &mut screen.content {
        if let Some((_, instead)) = CONSOLE.iter().find(|(drawn, _)| *drawn == cell.symbol()) {
            cell.set_symbol(instead);
        }
    }
}
