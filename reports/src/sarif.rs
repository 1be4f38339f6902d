//! SARIF 2.1.0 (<https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>), as code scanning services read
//! it: every rule described, one result per finding.

use std::path::Path;

use serde_json::{Map, Value, json};

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
    let rules =
        Rule::ALL.map(|rule| descriptor(rule.id(), rule.summary(), rule.help(), level(rule.severity())));
    let results: Vec<Value> = outcome
        .checkpoints
        .iter()
        .flat_map(|checked| checked.findings.iter().map(move |finding| result(checked, finding, root)))
        .collect();
    let judged = |checked: &Checked| {
        let (said, whole) = (checked.coverage.to_string(), checked.coverage.is_whole());
        json!({ "uri": uri(&checked.path, root), "judged": said, "whole": whole, "coverage": checked.coverage })
    };
    let judged: Vec<Value> = outcome.checkpoints.iter().map(judged).collect();
    document("ckpt gate", &rules, &results, json!({ "judged": judged, "off": outcome.policy.off }))
}

/// What scans found, as a SARIF log; `root` as for [`log`]. Files that could not be scanned are results of the rule
/// `damaged`.
pub fn scan_log(scans: &[scan::Scan], root: Option<&Path>) -> String {
    let rules: Vec<Value> = scan::Rule::ALL
        .iter()
        .map(|rule| {
            let severity = rule.severity();
            descriptor(rule.id(), rule.summary(), scan_help(severity), scan_level(severity))
        })
        .collect();
    let results: Vec<Value> = scans
        .iter()
        .flat_map(|scan| scan.findings.iter().map(move |finding| scan_result(&scan.path, finding, root)))
        .collect();
    document("ckpt scan", &rules, &results, json!({}))
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn scan_level(severity: scan::Severity) -> &'static str {
    match severity {
        scan::Severity::Dangerous => "error",
        scan::Severity::Note => "note",
        _ => "warning",
    }
}

fn scan_help(severity: scan::Severity) -> &'static str {
    match severity {
        scan::Severity::Dangerous => {
            "Do not load the file with a library that unpickles or runs it. Ask whoever made it what it needs this for; \
             `ckpt convert` writes its tensors alone to a SafeTensors file."
        }
        scan::Severity::Note => "Nothing needs to be done where this is meant.",
        _ => {
            "Find out what made the file before it is loaded with a library that unpickles or runs it; `ckpt convert` \
             writes its tensors alone to a SafeTensors file."
        }
    }
}

/// The log of one run of `tool`, with `properties` (section 3.8) if there are any.
fn document(tool: &str, rules: &[Value], results: &[Value], properties: Value) -> String {
    let mut log = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {
                "driver": {
                    "name": tool,
                    "version": env!("CARGO_PKG_VERSION"),
                    "informationUri": DOCUMENTATION,
                    "rules": rules,
                },
            },
            "results": results,
        }],
    });
    if properties.as_object().is_some_and(|properties| !properties.is_empty()) {
        log["runs"][0]["properties"] = properties;
    }
    ckpt_inspect::printable_json(&serde_json::to_string_pretty(&log).expect("a log's keys are strings"))
        + "\n"
}

/// A rule, as `reportingDescriptor` (section 3.49), with what code scanning shows of it.
fn descriptor(id: &str, summary: &str, help: &str, level: &str) -> Value {
    json!({
        "id": id,
        "name": id,
        "shortDescription": { "text": summary },
        "fullDescription": { "text": summary },
        "help": { "text": help, "markdown": help },
        "defaultConfiguration": { "level": level },
    })
}

/// Where a file is, and within it a member, as `location` (section 3.28).
fn location(path: &str, member: Option<&str>, root: Option<&Path>) -> Value {
    let uri = uri(path, root);
    let mut place = json!({ "uri": uri });
    if !uri.starts_with("file:") {
        place["uriBaseId"] = "%SRCROOT%".into();
    }
    // A checkpoint has no lines, but code scanning attaches alerts to one.
    let mut location = json!({
        "physicalLocation": { "artifactLocation": place, "region": { "startLine": 1 } },
    });
    if let Some(member) = member {
        location["logicalLocations"] = json!([{ "fullyQualifiedName": member, "kind": "member" }]);
    }
    location
}

fn scan_result(path: &str, finding: &scan::Finding, root: Option<&Path>) -> Value {
    let place = match (finding.member.as_str(), finding.offset) {
        ("", None) => String::new(),
        ("", Some(offset)) => format!("offset {offset}: "),
        (member, None) => format!("{member}: "),
        (member, Some(offset)) => format!("{member}, offset {offset}: "),
    };
    let member = Some(finding.member.as_str()).filter(|member| !member.is_empty());
    let what = finding.global.as_deref().unwrap_or_default();
    json!({
        "ruleId": finding.rule.id(),
        "ruleIndex": scan::Rule::ALL.iter().position(|&rule| rule == finding.rule),
        "level": scan_level(finding.severity),
        "message": { "text": message(&(place + &finding.message)) },
        "locations": [location(path, member, root)],
        "partialFingerprints": {
            "ruleMemberAndImport/v1": format!("{}:{}:{what}", finding.rule.id(), finding.member),
        },
    })
}

fn result(checked: &Checked, finding: &Finding, root: Option<&Path>) -> Value {
    // The identity of the finding across runs: not its message, whose numbers change.
    let fingerprint = format!("{}:{}", finding.rule.id(), finding.tensor.as_deref().unwrap_or_default());
    let mut result = json!({
        "ruleId": finding.rule.id(),
        "ruleIndex": Rule::ALL.iter().position(|&rule| rule == finding.rule),
        "level": level(finding.severity),
        "message": { "text": message(&finding.line()) },
        "locations": [location(&checked.path, finding.tensor.as_deref(), root)],
        "partialFingerprints": { "ruleAndTensor/v1": fingerprint },
    });
    let numbers: Map<String, Value> = [("measured", finding.measured), ("limit", finding.limit)]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_string(), value?.into())))
        .collect();
    if !numbers.is_empty() {
        result["properties"] = numbers.into();
    }
    result
}

/// Plain message text: in SARIF, braces are placeholders for arguments (section 3.11.5) and brackets are links
/// (3.11.6).
fn message(text: &str) -> String {
    text.replace('\\', "\\\\").replace('[', "\\[").replace(']', "\\]").replace('{', "{{").replace('}', "}}")
}
