//! GitHub's workflow commands: lines that a step prints so that findings are shown on its run and on the files.
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>

use std::path::Path;

use crate::gate::{Outcome, Rule, Severity};
use crate::location::relative_path;
use crate::{Exporter, printable};

pub(crate) const GATE: Exporter<Outcome> = Exporter {
    name: "github",
    summary: Some("GitHub workflow commands: annotations on the run"),
    extensions: &[],
    page: false,
    write: |outcome, root| Ok(commands(outcome, root)),
};

/// Lines listed in one annotation.
const LISTED: usize = 20;

/// One annotation per checkpoint and rule (GitHub shows ten errors per step), and one of what was not judged; then the
/// headline. `root` is the top of the repository; paths below it are shown relative to it.
pub fn commands(outcome: &Outcome, root: Option<&Path>) -> String {
    let mut out = String::new();
    for checked in &outcome.checkpoints {
        let file = property(&printable(&relative_path(&checked.path, root)));
        for rule in Rule::ALL {
            let found: Vec<String> =
                checked.findings.iter().filter(|f| f.rule == rule).map(|f| f.line()).collect();
            if found.is_empty() {
                continue;
            }
            let mut lines = found.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join("\n");
            if found.len() > LISTED {
                lines += &format!("\nand {} more", found.len() - LISTED);
            }
            let command = match rule.severity() {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            let title = property(&format!("ckpt gate: {}", rule.id()));
            out += &format!("::{command} file={file},title={title}::{}\n", data(&lines));
        }
        if !checked.coverage.is_whole() {
            let judged = data(&format!("judged {}", printable(&checked.coverage.to_string())));
            out += &format!("::notice file={file},title={}::{judged}\n", property("ckpt gate: judged"));
        }
    }
    out + "ckpt gate: " + &outcome.headline() + "\n"
}

/// The message of a command: `%` and line ends have meaning there.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property of a command: colon and comma have meaning there too.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
