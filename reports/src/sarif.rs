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

use crate::gate::{Checked, Finding, Outcome, Rule, Severity};
use crate::location::uri;

/// Where the schema of the format is kept.
const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// The outcome as a SARIF log. `root` is the top of the repository: paths below it become relative URIs.
pub fn log(outcome: &Outcome, root: Option<&Path>) -> String {
    let results: Vec<SarifResult> = outcome
        .checkpoints
        .iter()
        .flat_map(|checked| checked.findings.iter().map(move |finding| result(checked, finding, root)))
        .collect();
    let driver = ToolComponent::builder()
        .name("ckpt gate")
        .version(env!("CARGO_PKG_VERSION"))
        .rules(Rule::ALL.map(descriptor).to_vec())
        .build();
    let run = Run::builder().tool(Tool::builder().driver(driver).build()).results(results).build();
    let log = Sarif::builder().schema(SCHEMA).version(json!("2.1.0")).runs(vec![run]).build();
    serde_json::to_string_pretty(&log).expect("a log's keys are strings") + "\n"
}

fn descriptor(rule: Rule) -> ReportingDescriptor {
    let level = match rule.severity() {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    ReportingDescriptor::builder()
        .id(rule.id())
        .short_description(MultiformatMessageString::builder().text(rule.summary()).build())
        .default_configuration(ReportingConfiguration::builder().level(json!(level)).build())
        .build()
}

fn result(checked: &Checked, finding: &Finding, root: Option<&Path>) -> SarifResult {
    let uri = uri(&checked.path, root);
    let mut place = ArtifactLocation::builder().uri(uri.clone()).build();
    if !uri.starts_with("file:") {
        place.uri_base_id = Some("%SRCROOT%".into());
    }
    // A checkpoint has no lines; code scanning attaches alerts to one all the same.
    let physical = PhysicalLocation::builder()
        .artifact_location(place)
        .region(Region::builder().start_line(1).build())
        .build();
    let mut location = Location::builder().physical_location(physical).build();
    if let Some(tensor) = &finding.tensor {
        let logical = LogicalLocation::builder().fully_qualified_name(tensor).kind("member").build();
        location.logical_locations = Some(vec![logical]);
    }
    let index = Rule::ALL.iter().position(|&rule| rule == finding.rule).unwrap_or_default();
    // What makes it the same finding in the next run: not its message, whose numbers change.
    let fingerprint = format!("{}:{}", finding.rule.id(), finding.tensor.as_deref().unwrap_or_default());
    let mut numbers = BTreeMap::new();
    for (key, value) in [("measured", finding.measured), ("limit", finding.limit)] {
        numbers.extend(value.map(|value| (key.to_string(), json!(value))));
    }
    let mut result = SarifResult::builder()
        .rule_id(finding.rule.id())
        .rule_index(index as i64)
        .level(match finding.severity {
            Severity::Error => ResultLevel::Error,
            Severity::Warning => ResultLevel::Warning,
        })
        .message(Message::builder().text(message(&finding.line())).build())
        .locations(vec![location])
        .partial_fingerprints(BTreeMap::from([("ruleAndTensor/v1".to_string(), fingerprint)]))
        .build();
    if !numbers.is_empty() {
        result.properties = Some(PropertyBag::builder().additional_properties(numbers).build());
    }
    result
}

/// Plain message text: braces stand for arguments there (section 3.11.5) and brackets for links (3.11.6).
fn message(text: &str) -> String {
    text.replace('\\', "\\\\").replace('[', "\\[").replace(']', "\\]").replace('{', "{{").replace('}', "}}")
}
