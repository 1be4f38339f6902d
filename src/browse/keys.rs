//! What keys do. The help page is made from the same table.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// The action of a key, outside of search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Up,
    Down,
    PageUp,
    PageDown,
    Top,
    Bottom,
    In,
    Out,
    Enter,
    Escape,
    FoldAll,
    UnfoldAll,
    Search,
    Sort,
    Reverse,
    Flat,
    Verdicts,
    Groups,
    Earlier,
    Later,
    Mark,
    Diff,
    Copy,
    Focus,
    Tensors,
    Metadata,
    Files,
    Help,
    Suspend,
    Quit,
}

/// Names of keys, their actions, and the words of the help page; empty words continue the line above.
const KEYS: [(&str, Action, &str); 48] = [
    ("up", Action::Up, "↑ ↓, k j|move"),
    ("k", Action::Up, ""),
    ("down", Action::Down, ""),
    ("j", Action::Down, ""),
    ("pgup", Action::PageUp, "PgUp PgDn|a page"),
    ("pgdn", Action::PageDown, ""),
    ("ctrl-u", Action::PageUp, ""),
    ("ctrl-d", Action::PageDown, ""),
    ("home", Action::Top, "Home End, g G|first, last"),
    ("g", Action::Top, ""),
    ("end", Action::Bottom, ""),
    ("G", Action::Bottom, ""),
    ("right", Action::In, "→ ←, l h|unfold, fold"),
    ("l", Action::In, ""),
    ("left", Action::Out, ""),
    ("h", Action::Out, ""),
    ("enter", Action::Enter, "Enter|fold; a tensor, a value in full; a file"),
    ("esc", Action::Escape, "Esc|back; end search and filters"),
    ("z", Action::FoldAll, "z Z|fold, unfold everything"),
    ("Z", Action::UnfoldAll, ""),
    ("/", Action::Search, "/|search tensors or files, letters in order"),
    ("s", Action::Sort, "s S|sort them by the next column, reversed"),
    ("S", Action::Reverse, ""),
    ("t", Action::Flat, "t|tree or flat list"),
    ("v", Action::Verdicts, "v|filter them by verdict"),
    ("w", Action::Groups, "w|weights, optimizer, other"),
    ("[", Action::Earlier, "[ ], < >|earlier, later checkpoint"),
    ("<", Action::Earlier, ""),
    (",", Action::Earlier, ""),
    ("]", Action::Later, ""),
    (">", Action::Later, ""),
    (".", Action::Later, ""),
    ("space", Action::Mark, "Space|mark a tensor or a file"),
    ("d", Action::Diff, "d|compare two marked, or marked with this"),
    ("y", Action::Copy, "y|copy the name, the value in full"),
    ("tab", Action::Focus, "Tab|scroll the detail pane instead"),
    ("1", Action::Tensors, "1 2 3|tensors, metadata, files"),
    ("T", Action::Tensors, ""),
    ("2", Action::Metadata, ""),
    ("m", Action::Metadata, ""),
    ("3", Action::Files, ""),
    ("f", Action::Files, ""),
    ("?", Action::Help, "?|this page"),
    ("f1", Action::Help, ""),
    ("ctrl-z", Action::Suspend, "Ctrl-Z|suspend"),
    ("q", Action::Quit, "q, Ctrl-C|quit"),
    ("ctrl-c", Action::Quit, ""),
    ("ctrl-q", Action::Quit, ""),
];

/// The action of `key`.
pub fn action(key: &KeyEvent) -> Option<Action> {
    let name = name(key)?;
    KEYS.iter().find(|(key, ..)| *key == name).map(|(_, action, _)| *action)
}

/// Keys and what they do, for the help page.
pub fn help() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYS.iter().filter_map(|(_, _, words)| words.split_once('|'))
}

fn name(key: &KeyEvent) -> Option<String> {
    let name = match key.code {
        KeyCode::Up => "up",
        KeyCode::Down => "down",
        KeyCode::Left => "left",
        KeyCode::Right => "right",
        KeyCode::PageUp => "pgup",
        KeyCode::PageDown => "pgdn",
        KeyCode::Home => "home",
        KeyCode::End => "end",
        KeyCode::Enter => "enter",
        KeyCode::Esc => "esc",
        KeyCode::Tab | KeyCode::BackTab => "tab",
        KeyCode::F(1) => "f1",
        KeyCode::Char(' ') => "space",
        KeyCode::Char(c) if key.modifiers.contains(KeyModifiers::CONTROL) => {
            return Some(format!("ctrl-{c}"));
        }
        KeyCode::Char(c) if !key.modifiers.contains(KeyModifiers::ALT) => return Some(c.to_string()),
        _ => return None,
    };
    Some(name.to_string())
}

/// The keys that `text` spells: words between spaces are names of keys (`down`, `enter`, `ctrl-c`), or else typed
/// letter by letter.
pub fn parse(text: &str) -> Vec<KeyEvent> {
    let plain = |code| KeyEvent::new(code, KeyModifiers::NONE);
    text.split_whitespace()
        .flat_map(|word| {
            let code = match word {
                "up" => KeyCode::Up,
                "down" => KeyCode::Down,
                "left" => KeyCode::Left,
                "right" => KeyCode::Right,
                "pgup" => KeyCode::PageUp,
                "pgdn" => KeyCode::PageDown,
                "home" => KeyCode::Home,
                "end" => KeyCode::End,
                "enter" => KeyCode::Enter,
                "esc" => KeyCode::Esc,
                "tab" => KeyCode::Tab,
                "space" => KeyCode::Char(' '),
                "backspace" => KeyCode::Backspace,
                _ => match word.strip_prefix("ctrl-").and_then(|rest| rest.chars().next()) {
                    Some(c) => return vec![KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL)],
                    None => return word.chars().map(|c| plain(KeyCode::Char(c))).collect(),
                },
            };
            vec![plain(code)]
        })
        .collect()
}

/// Whether the key is pressed (some terminals also report its release).
pub fn is_press(key: &KeyEvent) -> bool {
    key.kind != KeyEventKind::Release
}
