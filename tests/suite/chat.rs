//! `ckpt chat` in a terminal of its own, and on pipes.

use ckpt_kit::binary::{Program, Ran, text};
use ckpt_kit::fixtures::fixture;

use crate::program;
use crate::terminal::Session;

const HEALTHY: &str = "tests/fixtures/healthy-run/step-02000.pt";

fn chat(program: &Program, flags: &[&str]) -> Session {
    Session::start(program, &[&["chat", HEALTHY], flags].concat(), (100, 40), &[])
}

/// Answers that never end by themselves.
const ENDLESS: [&str; 5] = ["--temperature=0", "--repetition-penalty=1", "--slide", "-n", "100000000"];

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let program = program();
    let mut session = chat(&program, &ENDLESS);
    session.wait_for_next("/help lists commands");
    session.wait_for_next("> ");
    for _ in 0..2 {
        session.press("# # # # # # #\r");
        session.wait_for_next("\x1b[?2004l");
        session.wait_for_more(200);
        session.press("\x03");
        session.wait_for_next("stopped");
        session.wait_for_next("> ");
    }
    session.press("\x03");
    session.wait_for_next("Ctrl-D or /quit leaves");
    session.press("/nonsense\r");
    session.wait_for_next("is no command");
    session.press("/system Be brief.\r");
    session.wait_for_next("told so");
    session.press("/clear\r");
    session.wait_for_next("a new conversation");
    session.press("/quit\r");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn lines_are_edited_and_remembered() {
    let program = program();
    let flags = ["--temperature=0", "-n", "1"];
    let mut session = chat(&program, &flags);
    session.wait_for_next("> ");
    // A typing error is taken back.
    session.press("/helx\x7fp\r");
    session.wait_for_next("begin a new conversation");
    session.press("\x04");
    assert_eq!(session.end().exit_code(), 0);
    let history = std::fs::read_to_string(program.data().join("ckpt/chat-history")).unwrap();
    assert!(history.lines().any(|line| line == "/help"), "{history}");
    // The arrow brings it back in the next session.
    let mut session = chat(&program, &flags);
    session.wait_for_next("> ");
    session.press("\x1b[A\r");
    session.wait_for_next("begin a new conversation");
    session.press("\x04");
    assert_eq!(session.end().exit_code(), 0);
    let mut session = chat(&program, &["--no-history"]);
    session.wait_for_next("> ");
    session.press("/system secret\r");
    session.wait_for_next("told so");
    session.press("\x04");
    assert_eq!(session.end().exit_code(), 0);
    assert!(!std::fs::read_to_string(program.data().join("ckpt/chat-history")).unwrap().contains("secret"));
}

/// Exit code, answers and remarks of a chat on pipes.
fn piped(flags: &[&str], input: &str) -> (Option<i32>, String, String) {
    let arguments = [&["chat", HEALTHY, "--temperature=0", "-n", "8"], flags].concat();
    let ran: Ran = program().run_with_input(&arguments, input.as_bytes());
    (ran.code(), ran.out().into(), ran.err().into())
}

#[test]
fn each_line_of_a_pipe_is_a_turn() {
    let (code, twice, _) = piped(&[], "import os\n/clear\nimport os\n");
    assert_eq!(code, Some(0));
    let half = twice.len() / 2;
    assert!(half > 1 && twice[..half] == twice[half..], "{twice:?}");
    // What was said before changes the answer; a turn may have several lines.
    let (_, talk, _) = piped(&[], "import os\nimport os\n");
    assert_ne!(talk, twice);
    let (_, one, _) = piped(&[], "import os\\\nimport re\n");
    let (_, two, _) = piped(&[], "import os\nimport re\n");
    assert_ne!(one, two);
    // 128 positions: after some turns the first ones are forgotten.
    let (code, _, notes) = piped(&[], &"for x in range(10): print(x)\n".repeat(8));
    assert_eq!(code, Some(0));
    assert!(notes.contains("turns are forgotten"), "{notes}");
    let (code, _, notes) = piped(&[], &format!("{}\nimport os\n", "words and words ".repeat(60)));
    assert_eq!(code, Some(0));
    assert!(notes.contains("do not fit"), "{notes}");
}

#[test]
fn the_template_is_the_models_or_what_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let file = folder.path().join("tokenizer_config.json");
    let tokenizer = ["--tokenizer", text(folder.path())];
    let (code, _, says) = piped(&[&tokenizer[..], &["--template=model"]].concat(), "a\n");
    assert_eq!(code, Some(2));
    assert!(says.contains("chat template"), "{says}");
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    std::fs::write(&file, serde_json::json!({ "chat_template": template }).to_string()).unwrap();
    // This template adds nothing, so the answer is what follows the text itself.
    let (_, said, _) = piped(&tokenizer, "import os\n");
    let same = ["infer", HEALTHY, "-p", "import os", "-n", "8", "--repetition-penalty", "1.2"];
    assert_eq!(said.trim(), program().run(&same).out().trim());
    let (_, plain, _) = piped(&[&tokenizer[..], &["--template=plain"]].concat(), "import os\n");
    let (_, tags, _) = piped(&[&tokenizer[..], &["--template=tags"]].concat(), "import os\n");
    assert!(plain != said && tags != plain, "{plain:?} {tags:?}");
    std::fs::write(&file, r#"{"chat_template": "{{ raise_exception('no such turn') }}"}"#).unwrap();
    let (code, _, says) = piped(&tokenizer, "a\n");
    assert_eq!(code, Some(3));
    assert!(says.contains("no such turn"), "{says}");
}
