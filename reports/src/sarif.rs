//! SARIF 2.1.0 (<https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>), as code scanning services read
//! it: every rule described, one result per finding.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use serde_sarif::sarif::{
    ArtifactLocation, Location, LogicalLocation, Message, MultiformatMessageString, PhysicalLocation,
    PropertyBag, Region, ReportingConfiguration, ReportingDescriptor, Result as SarifResult, ResultLevel,
    Run, Sarif, Tool, ToolComponent,
};

use ckpt_inspect::scan;

use crate::gate::{Checked, Finding, Outcome, Rule, Severity};
use crate::location::uri;
use crate::{Exporter, Scanned};

pub(crate) const GATE: Exporter<Outcome> = Exporter {
    name: "sarif",
    summary: SUMMARY,
    extensions: &[],
    page: false,
    write: |outcome, root| Ok(log(outcome, root)),
};

pub(crate) const SCAN: Exporter<Scanned> = Exporter {
    name: "sarif",
    summary: SUMMARY,
    extensions: &[],
    page: false,
    write: |scanned, root| Ok(scan_log(&scanned.files, root)),
};

const SUMMARY: Option<&str> = Some("SARIF 2.1.0, for code scanning");

/// Where the schema of the format is kept.
const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// Where the program is described.
const DOCUMENTATION: &str = "https://docs.rs/ckpt";

/// The outcome as a SARIF log. `root` is the top of the repository: paths below it become relative URIs.
pub fn log(outcome: &Outcome, root: Option<&Path>) -> String {
    let results: Vec<SarifResult> = outcome
        .checkpoints
        .iter()
        .flat_map(|checked| checked.findings.iter().map(move |finding| result(checked, finding, root)))
        .collect();
    document("ckpt gate", Rule::ALL.map(descriptor).to_vec(), results)
}

/// What scans found, as a SARIF log; `root` as for [`log`]. Files that could not be scanned are results of the rule
/// `damaged`.
pub fn scan_log(scans: &[scan::Scan], root: Option<&Path>) -> String {
    let rules = scan::Rule::ALL.iter().map(|rule| {
        let help = match rule.severity() {
            scan::Severity::Dangerous => "Do not load the file with a library that unpickles or runs it. Ask whoever made it what it needs this for; \
                                          `ckpt convert` writes its tensors alone to a SafeTensors file.",
            scan::Severity::Note => "Nothing needs to be done where this is meant.",
            _ => "Find out what made the file before it is loaded with a library that unpickles or runs it; `ckpt convert` \
                  writes its tensors alone to a SafeTensors file.",
        };
        described(rule.id(), rule.summary(), help, scan_level(rule.severity()))
    });
    let results = scans
        .iter()
        .flat_map(|scan| scan.findings.iter().map(move |finding| scan_result(&scan.path, finding, root)));
    document("ckpt scan", rules.collect(), results.collect())
}

fn scan_level(severity: scan::Severity) -> ResultLevel {
    match severity {
        scan::Severity::Dangerous => ResultLevel::Error,
        scan::Severity::Note => ResultLevel::Note,
        _ => ResultLevel::Warning,
    }
}

fn scan_result(path: &str, finding: &scan::Finding, root: Option<&Path>) -> SarifResult {
    let mut location = location(path, root);
    if !finding.member.is_empty() {
        let logical = LogicalLocation::builder().fully_qualified_name(&finding.member).kind("member").build();
        location.logical_locations = Some(vec![logical]);
    }
    let place = match (finding.member.as_str(), finding.offset) {
        ("", None) => String::new(),
        ("", Some(offset)) => format!("offset {offset}: "),
        (member, None) => format!("{member}: "),
        (member, Some(offset)) => format!("{member}, offset {offset}: "),
    };
    let index = scan::Rule::ALL.iter().position(|&rule| rule == finding.rule).unwrap_or_default();
    let what = finding.global.as_deref().unwrap_or_default();
    let fingerprint = format!("{}:{}:{what}", finding.rule.id(), finding.member);
    SarifResult::builder()
        .rule_id(finding.rule.id())
        .rule_index(index as i64)
        .level(scan_level(finding.severity))
        .message(Message::builder().text(message(&(place + &finding.message))).build())
        .locations(vec![location])
        .partial_fingerprints(BTreeMap::from([("ruleMemberAndImport/v1".to_string(), fingerprint)]))
        .build()
}

/// The log of one run of `tool`.
fn document(tool: &str, rules: Vec<ReportingDescriptor>, results: Vec<SarifResult>) -> String {
    let driver = ToolComponent::builder()
        .name(tool)
        .version(env!("CARGO_PKG_VERSION"))
        .information_uri(DOCUMENTATION)
        .rules(rules)
        .build();
    let run = Run::builder().tool(Tool::builder().driver(driver).build()).results(results).build();
    let log = Sarif::builder().schema(SCHEMA).version(json!("2.1.0")).runs(vec![run]).build();
    ckpt_inspect::printable_json(&serde_json::to_string_pretty(&log).expect("a log's keys are strings"))
        + "\n"
}

fn descriptor(rule: Rule) -> ReportingDescriptor {
    described(rule.id(), rule.summary(), rule.help(), level(rule.severity()))
}

fn level(severity: Severity) -> ResultLevel {
    match severity {
        Severity::Error => ResultLevel::Error,
        Severity::Warning => ResultLevel::Warning,
    }
}

/// A rule with what code scanning shows of it.
fn described(id: &str, summary: &str, help: &str, level: ResultLevel) -> ReportingDescriptor {
    let text = |text: &str| MultiformatMessageString::builder().text(text).build();
    ReportingDescriptor::builder()
        .id(id)
        .name(id)
        .short_description(text(summary))
        .full_description(text(summary))
        .help(MultiformatMessageString::builder().text(help).markdown(help).build())
        .default_configuration(ReportingConfiguration::builder().level(json!(level)).build())
        .build()
}

/// Where a file is.
fn location(path: &str, root: Option<&Path>) -> Location {
    let uri = uri(path, root);
    let mut place = ArtifactLocation::builder().uri(uri.clone()).build();
    if !uri.starts_with("file:") {
        place.uri_base_id = Some("%SRCROOT%".into());
    }
    // A checkpoint has no lines; code scanning attaches alerts to one all the same.
    let physical = PhysicalLocation::builder()
        .artifact_location(place)
        .region(Region::builder().start_line(1).build())
        .build();
    Location::builder().physical_location(physical).build()
}

fn result(checked: &Checked, finding: &Finding, root: Option<&Path>) -> SarifResult {
    let mut location = location(&checked.path, root);
    if let Some(tensor) = &finding.tensor {
        let logical = LogicalLocation::builder().fully_qualified_name(tensor).kind("member").build();
        location.logical_locations = Some(vec![logical]);
    }
    let index = Rule::ALL.iter().position(|&rule| rule == finding.rule).unwrap_or_default();
    // The identity of the finding across runs: not its message, whose numbers change.
    let fingerprint = format!("{}:{}", finding.rule.id(), finding.tensor.as_deref().unwrap_or_default());
    let mut numbers = BTreeMap::new();
    for (key, value) in [("measured", finding.measured), ("limit", finding.limit)] {
        numbers.extend(value.map(|value| (key.to_string(), json!(value))));
    }
    let mut result = SarifResult::builder()
        .rule_id(finding.rule.id())
        .rule_index(index as i64)
        .level(level(finding.severity))
        .message(Message::builder().text(message(&finding.line())).build())
        .locations(vec![location])
        .partial_fingerprints(BTreeMap::from([("ruleAndTensor/v1".to_string(), fingerprint)]))
        .build();
    if !numbers.is_empty() {
        result.properties = Some(PropertyBag::builder().additional_properties(numbers).build());
    }
    result
}

/// Plain message text: in SARIF, braces are placeholders for arguments (section 3.11.5) and brackets are links
/// (3.11.6).
fn message(text: &str) -> String {
    text.replace('\\', "\\\\").replace('[', "\\[").replace(']', "\\]").replace('{', "{{").replace('}', "}}")
}
