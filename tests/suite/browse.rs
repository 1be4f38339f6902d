//! `ckpt browse` in a terminal of its own: what it shows, how it ends, and that it restores the terminal.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ckpt_kit::binary::{Program, Ran, text};
use ckpt_kit::fixtures::root;
use ckpt_kit::safetensors::SafeTensors;

use crate::program;
use crate::terminal::Session;

const RUN: &str = "tests/fixtures/collapse-run";

/// `ckpt browse` on `paths`.
fn browse(program: &Program, paths: &[&str], size: (u16, u16), environment: &[(&str, &str)]) -> Session {
    Session::start(program, &[&["browse"], paths].concat(), size, environment)
}

#[test]
fn opens_folds_searches_shows_detail_resizes_and_quits() {
    let program = program();
    let mut session = browse(&program, &[RUN], (120, 40), &[]);
    session.wait_for("▾ layers");
    assert!(session.shown().screen().alternate_screen());
    session.wait_until_gone("measuring");
    session.wait_for("healthy");
    session.press("z");
    session.wait_until_gone("layers");
    session.press("Z");
    session.wait_for("q_proj.weight");
    session.press("/l1mlpgate");
    session.wait_for("layers.1.mlp.gate_proj.weight");
    session.wait_for("1 found");
    session.press("\r");
    session.wait_for("ternary map");
    session.wait_for("std by step");
    session.press("]]]]]]]]");
    session.wait_for("step 4000 (9 of 9)");
    session.wait_for("weak");
    session.resize(60, 15);
    // The last line went with the lower half of the screen; a redrawn one shows it again.
    session.wait_for("only /l1mlpgate");
    session.wait_until_gone("ternary map");
    session.press("\r");
    session.wait_for("strides");
    session.resize(120, 40);
    session.wait_for("|w| by powers of two");
    session.press("\x1b[6~");
    session.wait_for("row norms");
    // Together with the next key it would be Alt.
    session.press("\x1b");
    session.wait_for("only /l1mlpgate");
    session.press("?");
    session.wait_for("copy the name, the value in full");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
    session.assert_restored();
}

/// A zoo, in which the sick are looked for.
#[test]
fn a_list_of_files_is_searched_and_filtered() {
    let program = program();
    let zoo = crate::zoo::zoo(&program, 60);
    let mut session = browse(&program, &[text(&zoo)], (120, 20), &[]);
    session.press("3");
    session.wait_until_gone("measuring");
    session.wait_for("model-000.safetensors");
    session.press("v");
    session.wait_until_gone("model-000.safetensors");
    session.wait_for("model-049.safetensors");
    session.press("\x1b");
    session.wait_for("model-048.safetensors");
    session.press("g");
    session.wait_for("model-000.safetensors");
    // "zoo" is in the folder of all of them, which tells none apart.
    session.press("/zoo");
    session.wait_for("  0 found");
    session.press("\x1b");
    session.wait_until_gone("  0 found");
    session.press("/m57");
    session.wait_for("1 found");
    session.press("\r\r");
    session.wait_for("body.weight");
    session.wait_for("l-057.safetensors");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn copies_a_name_through_the_terminal() {
    let program = program();
    let mut session = browse(&program, &[RUN], (80, 24), &[]);
    session.wait_for("embed_tokens.weight");
    session.press("jy");
    session.wait_for("copied model_state_dict.embed_tokens.weight");
    // base64 of the name.
    let wanted = b"\x1b]52;c;bW9kZWxfc3RhdGVfZGljdC5lbWJlZF90b2tlbnMud2VpZ2h0";
    let raw = session.shown().bytes.clone();
    assert!(raw.windows(wanted.len()).any(|w| w == wanted));
    session.press("\x03");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn a_signal_restores_the_terminal_and_is_reported_to_the_parent() {
    for (name, number) in [
        ("TERM", "Terminated"),
        ("HUP", "Hangup"),
        ("INT", "Interrupt"),
        ("USR1", "User defined signal 1"),
        ("SEGV", "Segmentation fault"),
        ("ABRT", "Aborted"),
    ] {
        let program = program();
        let mut session = browse(&program, &[RUN], (80, 24), &[]);
        session.wait_for("layers");
        let pid = session.process_id();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
        let status = session.end();
        assert_eq!(status.signal(), Some(number), "{status:?}");
        session.assert_restored();
    }
}

#[test]
fn no_color_is_respected_and_colours_are_the_terminals_own() {
    let coloured = |session: &Session| {
        let shown = session.shown();
        let screen = shown.screen();
        let cells = (0..24).flat_map(|row| (0..80).map(move |col| (row, col)));
        cells.filter_map(|(row, col)| screen.cell(row, col)).map(|cell| cell.fgcolor()).collect::<Vec<_>>()
    };
    let program = program();
    let session = browse(&program, &[RUN], (80, 24), &[("NO_COLOR", "1")]);
    session.wait_for("healthy");
    session.wait_until_gone("measuring");
    assert!(coloured(&session).iter().all(|c| *c == vt100::Color::Default));
    let session = browse(&program, &[RUN], (80, 24), &[]);
    session.wait_for("healthy");
    session.wait_until_gone("measuring");
    let colours = coloured(&session);
    assert!(colours.contains(&vt100::Color::Idx(2)), "healthy is green");
    assert!(colours.iter().all(|c| matches!(c, vt100::Color::Default | vt100::Color::Idx(0..16))));
}

/// A sparse SafeTensors file of `tensors` matrices of 256 MiB.
fn large(folder: &Path, tensors: usize) -> PathBuf {
    let named = (0..tensors).map(|i| format!("layers.{i}.weight"));
    let file = named.fold(SafeTensors::new(), |file, name| file.hole(&name, &[8192, 8192]));
    let path = folder.join("large.safetensors");
    file.write_holes(&path);
    path
}

/// The list is there long before the measurements are, and leaving does not wait for them.
#[test]
fn a_large_file_is_listed_at_once_and_left_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = large(folder.path(), 256);
    let program = program();
    let mut session = browse(&program, &[path.to_str().unwrap()], (100, 30), &[]);
    session.wait_for("68.7 GB");
    session.wait_for("measuring");
    let left = Instant::now();
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
    assert!(left.elapsed() < Duration::from_secs(60), "{:?}", left.elapsed());
    session.assert_restored();
}

/// Missing pages of a mapped file cause a SIGBUS, at any moment.
#[test]
fn a_file_cut_short_while_it_is_measured_gives_the_terminal_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = large(folder.path(), 256);
    let program = program();
    let mut session = browse(&program, &[path.to_str().unwrap()], (100, 30), &[]);
    session.wait_for("measuring");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
    assert_eq!(session.end().exit_code(), 3);
    session.wait_for("a file was truncated while it was being read");
    session.assert_restored();
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    program().run(&["browse", RUN]).exits(2).complains(&["--snapshot"]);
}

#[test]
fn an_unreadable_file_is_reported_on_the_command_line() {
    let program = program();
    let mut session = browse(&program, &["tests/fixtures/no-such-file.pt"], (80, 24), &[]);
    assert_eq!(session.end().exit_code(), 3);
    session.wait_for("no-such-file.pt");
    session.assert_restored();
}

/// The pictures of the docs are what the program draws today; CKPT_UPDATE_SCREENS=1 redraws them.
#[test]
fn the_pictures_in_the_docs_are_what_the_program_draws() {
    let folder = tempfile::tempdir().unwrap();
    for (picture, size, keys) in [
        ("browse.svg", "120x34", "] ] ] ] ] ] ] ] /gate enter"),
        ("browse-tree.svg", "100x24", "] ] ] ] ] ] ] ] down down down"),
    ] {
        let drawn = folder.path().join(picture);
        let docs = root().join("docs").join(picture);
        let draw = ["browse", RUN, "--no-cache", "--size", size, "--keys", keys, "--snapshot", text(&drawn)];
        program().run(&draw).exits(0);
        if std::env::var_os("CKPT_UPDATE_SCREENS").is_some() {
            std::fs::copy(&drawn, &docs).unwrap();
        }
        let (drawn, kept) =
            (std::fs::read_to_string(&drawn).unwrap(), std::fs::read_to_string(&docs).unwrap());
        assert!(
            drawn == kept,
            "docs/{picture} is out of date: CKPT_UPDATE_SCREENS=1 cargo test --workspace --test program browse"
        );
    }
}

#[test]
fn an_error_is_no_picture_and_colours_can_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let program = program();
    let ckpt = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = program.command(&[&["browse", "--no-cache", "--snapshot"], arguments].concat());
        Ran::of(command.envs(environment.iter().copied()))
    };
    let picture = folder.path().join("a.svg");
    let out = picture.to_str().unwrap();
    let junk = folder.path().join("junk.pt");
    std::fs::write(&junk, "junk").unwrap();
    for path in ["no-such-file", junk.to_str().unwrap()] {
        let output = ckpt(&[out, path], &[]).exits(3);
        assert!(output.err().contains(path), "{output}");
        assert!(!picture.exists());
    }
    // The picture's path is checked before anything is measured.
    let lost = folder.path().join("lost.svg");
    std::os::unix::fs::symlink("nowhere", &lost).unwrap();
    ckpt(&[text(&lost), text(&junk)], &[]).exits(4);
    let drawn = |arguments: &[&str], environment: &[(&str, &str)]| {
        ckpt(&[&[out, RUN, "--force"], arguments].concat(), environment).exits(0);
        std::fs::read_to_string(&picture).unwrap()
    };
    let (coloured, plain) = (drawn(&[], &[("NO_COLOR", "")]), drawn(&[], &[("NO_COLOR", "1")]));
    assert_eq!(plain, drawn(&["--color", "never"], &[("NO_COLOR", "")]));
    assert_eq!(coloured, drawn(&["--color", "always"], &[("NO_COLOR", "1")]));
    let paints = |svg: &str| {
        let of = |part: &str| part.split('"').next().unwrap_or_default().to_string();
        svg.split("fill=\"").skip(1).map(of).collect::<std::collections::BTreeSet<String>>()
    };
    assert!(paints(&plain).len() < paints(&coloured).len(), "{:?} {:?}", paints(&plain), paints(&coloured));
}
