//! The browser as it is drawn, and what keys and the mouse do.

use super::*;
use ckpt_inspect::health::measures::STD;
use crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::style::Color;
use state::Cover;
use tree::Kind;

/// A browser of fixtures in which everything was measured.
struct Desk {
    state: State,
    workers: Workers,
}

impl Desk {
    fn new(paths: &[&str], size: (u16, u16)) -> Desk {
        let options = load::LoadOptions {
            describe: ckpt_inspect::Options::default(),
            checksum: false,
            cache: false,
            judged: true,
            thresholds: ckpt_inspect::Thresholds::default(),
            open: ckpt_inspect::OpenOptions::default(),
        };
        let paths: Vec<PathBuf> = paths.iter().map(|p| format!("tests/fixtures/{p}").into()).collect();
        let paths = found(load::expand(&paths).unwrap()).unwrap();
        let workers = Workers::new(options);
        let mut state = State::new(paths, size, true, options.thresholds);
        for at in 0..state.files.len() {
            state.update(worker::opened(at, workers.open(&state.files[at].path)));
            for message in workers.measure_all(at, &state) {
                state.update(message);
            }
        }
        let mut desk = Desk { state, workers };
        desk.settle(Vec::new());
        desk
    }

    fn settle(&mut self, mut todo: Vec<Command>) -> Vec<Command> {
        todo.extend(self.state.settle());
        for command in &todo {
            if let Some(message) = self.workers.answer(&self.state, command) {
                self.state.update(message);
            }
        }
        self.state.settle();
        todo
    }

    fn press(&mut self, keys: &str) -> Vec<Command> {
        let mut all = Vec::new();
        for key in keys::parse(keys) {
            let todo = self.state.update(Message::Input(Event::Key(key)));
            all.extend(self.settle(todo));
        }
        all
    }

    fn mouse(&mut self, kind: MouseEventKind, column: u16, row: u16) {
        let mouse = MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE };
        let todo = self.state.update(Message::Input(Event::Mouse(mouse)));
        self.settle(todo);
    }

    fn click(&mut self, column: u16, row: u16) {
        self.mouse(MouseEventKind::Down(MouseButton::Left), column, row);
    }

    fn text(&self) -> String {
        svg::text(&drawing(&self.state))
    }

    /// First line that shows `text`.
    fn line(&self, text: &str) -> u16 {
        let screen = self.text();
        screen.lines().position(|l| l.contains(text)).unwrap_or_else(|| panic!("{text}\n{screen}")) as u16
    }
}

const RUN: &[&str] = &["collapse-run"];

#[test]
fn screens_are_drawn_as_their_pictures_show() {
    for (name, size, keys) in [
        ("tree", (120, 40), "] ] ] ] ] ] ] ]"),
        ("tree", (80, 24), "] ] ] ] ] ] ] ]"),
        ("tree", (40, 12), "] ] ] ] ] ] ] ]"),
        ("tensor", (120, 40), "] ] ] ] /l1gate enter"),
        ("tensor", (80, 24), "] ] ] ] /l1gate enter enter pgdn"),
        ("tensor", (40, 12), "] ] ] ] /l1gate enter enter pgdn pgdn"),
        ("sorted", (80, 24), "t w s s s s s"),
        ("search", (80, 24), "/qproj"),
        ("metadata", (80, 24), "m"),
        ("value", (40, 12), "m down enter"),
        ("files", (80, 24), "f down space down space"),
        ("files", (40, 12), "f"),
        ("files-searched", (80, 24), "f /step3 enter s s s"),
        ("two-files", (80, 24), "f down down space G space d"),
        ("two-tensors", (80, 24), "/gate enter space space d"),
        ("help", (80, 24), "?"),
        ("help", (40, 12), "? pgdn"),
    ] {
        let mut desk = Desk::new(RUN, size);
        desk.press(keys);
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("snapshots");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| {
            insta::assert_snapshot!(format!("{name}-{}x{}", size.0, size.1), desk.text());
        });
    }
}

#[test]
fn without_colours_nothing_is_coloured_and_nothing_else_changes() {
    for keys in ["", "] ] ] ] ] ] ] /gate enter", "m", "f space", "?"] {
        let mut desk = Desk::new(RUN, (120, 40));
        desk.press(keys);
        let colourful = drawing(&desk.state);
        desk.state.colors = false;
        let plain = drawing(&desk.state);
        let uncoloured = |cell: &ratatui::buffer::Cell| cell.fg == Color::Reset && cell.bg == Color::Reset;
        assert!(plain.content.iter().all(uncoloured), "{keys}");
        assert_eq!(svg::text(&colourful), svg::text(&plain));
        let sixteen = |color: Color| !matches!(color, Color::Rgb(..) | Color::Indexed(16..));
        assert!(colourful.content.iter().all(|cell| sixteen(cell.fg) && sixteen(cell.bg)), "{keys}");
    }
}

/// The characters of code page 437 outside ASCII that console fonts have.
#[test]
fn the_console_is_drawn_what_its_font_has() {
    let mut desk = Desk::new(RUN, (120, 40));
    desk.state.console = true;
    for keys in ["] ] ] ] ] ] ]", "/gate enter", "space f space", "m", "?"] {
        desk.press(keys);
        let text = desk.text();
        let missing: Vec<char> =
            text.chars().filter(|c| !c.is_ascii() && !"░▒▓█▄│─┼║·±←↑→↓".contains(*c)).collect();
        assert!(missing.is_empty(), "{missing:?}\n{text}");
    }
}

/// A value that is too long for its line can be read, and is copied, as a whole.
#[test]
fn a_plain_value_is_read_in_full() {
    let mut desk = Desk::new(&["formats/truncated.pt"], (60, 24));
    desk.press("m");
    let why = |row: &values::ValueRow| row.path == "why.0";
    desk.state.value_list.at = desk.state.values.iter().position(why).unwrap();
    desk.press("enter");
    let text = desk.text().split_whitespace().collect::<Vec<_>>().join(" ");
    let value = desk.state.values[desk.state.value_list.at].text.clone();
    assert!(value.len() > 60 && text.contains(&value), "{text}");
    assert_eq!(desk.press("y"), [Command::Copy(value)]);
    desk.press("enter");
    assert_eq!(desk.press("y"), [Command::Copy("why.0".into())]);
}

#[test]
fn folding_searching_filtering_and_sorting() {
    let mut desk = Desk::new(RUN, (80, 24));
    desk.press("z");
    assert_eq!(desk.state.rows.len(), 2);
    desk.press("Z");
    assert!(desk.state.rows.len() > 39);
    desk.press("left left left g enter");
    assert_eq!(desk.state.rows[0].label, "model_state_dict");
    desk.press("G t v");
    assert_eq!(desk.state.rows.len(), 0, "nothing is below healthy at step 0");
    assert!(desk.text().contains("nothing matches; Esc ends search and filters"));
    desk.press("] ] ] ] ] ] ] ]");
    assert_eq!(desk.state.rows.len(), 6, "the six matrices of the MLPs are weak at step 4000");
    desk.press("s s s s s");
    let stds: Vec<f64> = desk.state.rows.iter().map(|r| r.least.unwrap()).collect();
    assert!(stds.is_sorted(), "{stds:?}");
    desk.press("S esc w w");
    assert!(desk.state.rows.iter().all(|r| r.label.starts_with("optimizer_state_dict")));
    desk.press("esc / nothing-like-it");
    assert_eq!(desk.state.rows.len(), 0);
    desk.press("esc t");
    assert!(desk.state.listing.order.query.is_empty());
}

/// The same keys as for tensors, in the list of files.
#[test]
fn files_are_searched_filtered_and_sorted() {
    let paths = ["collapse-run", "healthy-run", "formats/expected.json", "packed/nano-healthy-2000-i2s.pt"];
    let mut desk = Desk::new(&paths, (100, 24));
    let shown = |desk: &Desk| -> Vec<String> {
        let name = |row: &files::FileRow| {
            desk.state.files[row.file].path.file_name().unwrap().to_string_lossy().into_owned()
        };
        desk.state.file_rows.iter().map(name).collect()
    };
    desk.press("f");
    assert_eq!(shown(&desk).len(), 14);
    desk.press("/hstep2000");
    assert_eq!(shown(&desk)[0], "step-02000.pt");
    assert!(desk.text().contains(" found") && desk.state.searching);
    desk.press("enter");
    assert!(desk.text().contains("only /hstep2000, "), "{}", desk.text());
    desk.press("esc v");
    assert_eq!(
        shown(&desk),
        ["step-02500.pt", "step-03000.pt", "step-03500.pt", "step-04000.pt", "expected.json"],
        "weak, and what cannot be read"
    );
    // The list keeps the file that the cursor is on, and keys act on what is shown.
    desk.press("g down s s");
    assert_eq!(desk.state.file_order.sort, files::FileSort::Step);
    assert!(desk.text().contains("step▾"), "{}", desk.text());
    assert!(desk.state.files[desk.state.file_at().unwrap()].path.ends_with("step-03000.pt"));
    desk.press("s");
    assert_eq!(shown(&desk)[0], "expected.json", "the worst first");
    desk.press("S");
    assert_eq!(shown(&desk)[4], "expected.json");
    desk.press("g space space");
    assert!(
        desk.state.marks.iter().all(
            |m| matches!(m, state::Mark::File(f) if desk.state.files[*f].record.as_ref().unwrap().is_ok())
        )
    );
    desk.press("g enter");
    assert_eq!(desk.state.file().known().unwrap().verdict, Some(ckpt_inspect::Verdict::Weak));
    assert_eq!(desk.state.view, state::View::Tensors);
    assert!(desk.state.listing.order.query.is_empty(), "the search was in another list");
    desk.press("f v v v v v");
    assert_eq!(desk.state.file_order.verdict, order::VerdictFilter::Only(ckpt_inspect::Verdict::Dead));
    assert!(desk.text().contains("nothing matches; Esc ends search and filters"), "{}", desk.text());
    desk.press("enter space d y esc");
    desk.press("esc");
    assert_eq!((shown(&desk).len(), desk.state.view), (14, state::View::Files));
    desk.press("esc");
    assert_eq!(desk.state.view, state::View::Tensors);
    // By a click on a heading, too.
    desk.press("f");
    let (_, x, _) = layout::file_columns(&desk.state)[3];
    let heading = desk.line("measured");
    desk.click(x + 5, heading);
    assert_eq!(desk.state.file_order.sort, files::FileSort::Size);
    let sizes: Vec<u64> = desk
        .state
        .file_rows
        .iter()
        .filter_map(|r| Some(desk.state.files[r.file].known()?.file_bytes))
        .collect();
    assert!(sizes.len() == 13 && sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
}

/// Modules stay folded from step to step, and one that is folded in one network is not in another that has a
/// module of the same path.
#[test]
fn folding_lasts_over_the_steps_of_a_run_and_is_no_other_networks() {
    let mut desk = Desk::new(&["collapse-run", "formats/whole.pt"], (80, 24));
    let is_open = |desk: &Desk, wanted: &str| {
        let modules = desk.state.rows.iter().filter_map(|row| match &row.kind {
            Kind::Module { path, open } => Some((path.as_str(), *open)),
            Kind::Tensor(_) => None,
        });
        modules.filter(|(path, _)| *path == wanted).map(|(_, open)| open).next()
    };
    let layers = "model_state_dict.layers";
    let line = desk.line("▾ layers");
    desk.click(8, line);
    assert_eq!(is_open(&desk, layers), Some(false));
    desk.press("]");
    assert_eq!(is_open(&desk, layers), Some(false), "the next step");
    desk.press("f G enter");
    assert_eq!(is_open(&desk, layers), Some(true), "another network\n{}", desk.text());
    desk.press("z");
    assert_eq!(is_open(&desk, layers), Some(false));
    desk.press("f g enter");
    assert_eq!(is_open(&desk, "model_state_dict"), Some(true));
    assert_eq!(is_open(&desk, layers), Some(false), "as it was left");
    desk.press("Z ] ]");
    assert_eq!(is_open(&desk, &format!("{layers}.1.mlp")), Some(true));
    desk.press("z ]");
    assert_eq!(desk.state.rows.len(), 2);
}

#[test]
fn the_mouse_selects_folds_sorts_steps_and_scrolls() {
    let mut desk = Desk::new(RUN, (120, 40));
    let layers = desk.line("▾ layers");
    desk.click(8, layers);
    assert!(desk.text().contains("▸ layers"));
    desk.click(8, layers);
    let gate = desk.line("gate_proj.weight");
    desk.click(12, gate);
    assert_eq!(desk.state.tensor().unwrap().1.name, "model_state_dict.layers.0.mlp.gate_proj.weight");
    let (start, len) = layout::track(&desk.state);
    desk.click(start + len - 1, 1);
    assert_eq!(desk.state.file().known().unwrap().step, Some(4000));
    let columns = layout::columns(&desk.state);
    let std = columns.iter().find(|(c, ..)| *c == layout::Column::Measure(&STD)).unwrap();
    desk.click(std.1 + 2, 2);
    assert_eq!(desk.state.listing.order.sort, tree::Sort::Measure(&STD));
    desk.click(std.1 + 2, 2);
    assert!(desk.state.listing.order.reversed);
    for _ in 0..5 {
        desk.mouse(MouseEventKind::ScrollDown, 100, 20);
    }
    assert!(desk.state.detail_scroll > 0);
    let (.., files) = *layout::tabs(&desk.state).last().unwrap();
    desk.click(files + 2, 0);
    assert_eq!(desk.state.view, state::View::Files);
    desk.click(5, 5);
    desk.click(5, 5);
    assert_eq!(desk.state.current, 2);
}

#[test]
fn names_are_copied_and_two_tensors_compared_over_steps() {
    let mut desk = Desk::new(RUN, (80, 24));
    desk.press("] ] /l0 space gate enter");
    let copied = desk.press("y");
    assert_eq!(copied, [Command::Copy("model_state_dict.layers.0.mlp.gate_proj.weight".into())]);
    desk.press("space g ] ] ] ] ] ] d");
    assert_eq!(desk.state.cover, Cover::Diff);
    let text = desk.text();
    // The number is numpy's: tests/fixtures/diff.
    assert!(text.contains("cosine      0.995151"), "{text}");
    assert!(text.contains("agree       98.27 %"), "{text}");
    desk.press("esc");
    assert_eq!(desk.state.cover, Cover::None);
}

#[test]
fn what_arrives_late_is_shown_when_it_arrives() {
    let mut desk = Desk::new(RUN, (120, 40));
    let whole = desk.state.files[0].known().unwrap().clone();
    let mut header = whole.clone();
    header.verdict = None;
    for tensor in &mut header.tensors {
        (tensor.stats, tensor.ternary, tensor.verdict) = (None, None, None);
    }
    let record = Ok(Box::new(header));
    desk.state.update(Message::Opened { file: 0, record, complete: false });
    desk.settle(Vec::new());
    assert!(desk.text().contains("…") && desk.text().contains("measuring"));
    for (i, tensor) in whole.tensors.iter().enumerate() {
        desk.state.update(Message::Measured { file: 0, tensor: i, record: Box::new(tensor.clone()) });
    }
    desk.state.update(Message::Complete { file: 0 });
    desk.settle(Vec::new());
    assert!(!desk.text().contains("measuring"));
    assert_eq!(desk.state.files[0].known().unwrap().verdict, whole.verdict);
}

/// Keys and results arrive in any order, and none is lost.
#[test]
fn a_key_moves_the_cursor_whatever_is_measured_before_and_after_it() {
    let mut desk = Desk::new(RUN, (120, 40));
    let record = Box::new(desk.state.files[0].known().unwrap().tensors[5].clone());
    let measured = || Message::Measured { file: 0, tensor: 5, record: record.clone() };
    let key = || Message::Input(Event::Key(keys::parse("down")[0]));
    for batch in [vec![key(), measured()], vec![measured(), key()], vec![measured(), key(), measured()]] {
        desk.press("g");
        batch.into_iter().for_each(|message| drop(desk.state.update(message)));
        desk.settle(Vec::new());
        assert_eq!(desk.state.list.at, 1);
        desk.press("f g");
        desk.state.update(key());
        desk.state.update(measured());
        desk.settle(Vec::new());
        assert_eq!(desk.state.file_list.at, 1);
        desk.press("esc");
    }
}

/// Random keys, clicks and sizes, on hostile names.
#[test]
fn nothing_panics_and_no_control_character_is_drawn() {
    let formats = ["formats/unicode.pt", "formats/truncated.pt", "formats/bitflip.pt", "formats/evil.pt"];
    let more =
        ["formats/dtypes_float.pt", "formats/dtypes_int.pt", "formats/sparse.pt", "formats/quantized.pt"];
    let last = ["formats/tensor_root.pt", "formats/views.pt", "packed/nano-healthy-2000-i2s.pt"];
    let unreadable = ["formats/expected.json"];
    let mut desk = Desk::new(&[&unreadable[..], &formats, &more, &last, RUN].concat(), (80, 24));
    desk.press("Z z right enter space d");
    let mut seed = 7u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let names = "up down left right enter esc tab pgup pgdn home end space g G z Z / s S t v w [ ] d y m f 1 2 3 ? \
                 a . _ backspace ctrl-u";
    let names: Vec<&str> = names.split_whitespace().collect();
    for _ in 0..3000 {
        match random(12) {
            0 => {
                let size = (1 + random(130) as u16, 1 + random(45) as u16);
                desk.state.update(Message::Input(Event::Resize(size.0, size.1)));
                desk.settle(Vec::new());
            }
            1 => desk.click(random(130) as u16, random(45) as u16),
            2 => desk.mouse(MouseEventKind::ScrollDown, random(130) as u16, random(45) as u16),
            _ => drop(desk.press(names[random(names.len() as u64) as usize])),
        }
        let text = desk.text();
        assert!(!text.chars().any(|c| c != '\n' && c.is_control()), "{text:?}");
    }
}
