//! JUnit XML, as Jenkins and GitLab read it: a suite per checkpoint, a case per rule that was checked.

use ckpt_inspect::{printable, printable_in_log};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::Exporter;
use crate::gate::{Checked, Finding, Outcome, Rule, Severity};

pub(crate) const GATE: Exporter<Outcome> = Exporter {
    name: "junit",
    summary: Some("JUnit XML, for GitLab, Jenkins and others"),
    extensions: &[],
    page: false,
    write: |outcome, _| Ok(xml(outcome)),
};

/// The outcome as JUnit XML.
pub fn xml(outcome: &Outcome) -> String {
    let mut report = Report::new("ckpt gate");
    for checked in &outcome.checkpoints {
        report.add_test_suite(suite(checked));
    }
    text(&report)
}

/// `report` as text. The schema that Jenkins checks against (junit-10.xsd) knows no `skipped` of the root, which comes first.
fn text(report: &Report) -> String {
    let text = report.to_string().expect("writing XML to memory does not fail");
    text.replacen(" skipped=\"0\"", "", 1)
}

/// A case of another command's report.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Why it failed, in one line, if it did.
    pub failure: Option<String>,
    /// The evidence.
    pub details: String,
}

impl Case {
    /// A case of this name.
    pub fn new(name: impl Into<String>, failure: Option<String>, details: String) -> Self {
        Case { name: name.into(), failure, details }
    }
}

/// A report of `title` with a suite of cases for each name.
pub fn report(title: &str, suites: &[(String, Vec<Case>)]) -> String {
    let mut report = Report::new(title);
    let lines = |text: &str| text.lines().map(printable_in_log).collect::<Vec<_>>().join("\n");
    for (name, cases) in suites {
        let name = printable(name);
        let mut suite = TestSuite::new(&name);
        for case in cases {
            let status = match &case.failure {
                Some(why) => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status.set_message(printable(why)).set_description(lines(&case.details));
                    status
                }
                None => TestCaseStatus::success(),
            };
            let mut written = TestCase::new(printable(&case.name), status);
            written.set_classname(&name);
            if case.failure.is_none() && !case.details.is_empty() {
                written.set_system_out(lines(&case.details));
            }
            suite.add_test_case(written);
        }
        report.add_test_suite(suite);
    }
    text(&report)
}

fn suite(checked: &Checked) -> TestSuite {
    let path = printable(&checked.path);
    let mut suite = TestSuite::new(&path);
    suite.add_property(("judged", printable(&checked.coverage.to_string()).as_str()));
    for rule in Rule::ALL.into_iter().filter(|rule| checked.checks.contains(rule)) {
        let found: Vec<&Finding> = checked.findings.iter().filter(|f| f.rule == rule).collect();
        let errors = found.iter().any(|f| f.severity == Severity::Error);
        let lines: Vec<String> = found.iter().map(|f| printable_in_log(&f.line())).collect();
        let status = match (lines.as_slice(), errors) {
            (lines @ [first, ..], true) => {
                let unreadable = matches!(rule, Rule::UnreadableFile | Rule::DamagedFile);
                let kind = if unreadable { NonSuccessKind::Error } else { NonSuccessKind::Failure };
                let more = lines.len() - 1;
                let message = if more > 0 { format!("{first} (and {more} more)") } else { first.clone() };
                let mut status = TestCaseStatus::non_success(kind);
                status.set_type(rule.id()).set_message(message).set_description(lines.join("\n"));
                status
            }
            _ => TestCaseStatus::success(),
        };
        let mut case = TestCase::new(rule.id(), status);
        case.set_classname(&path);
        if !errors && !lines.is_empty() {
            case.set_system_out(lines.join("\n"));
        }
        suite.add_test_case(case);
    }
    suite
}
