//! Checkpoints that lie elsewhere: on web servers, in buckets and containers, on the Hub. Each answer equals that for the
//! same file on this machine.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use ckpt_kit::binary::{Program, Ran};
use ckpt_kit::fixtures::root;
use ckpt_kit::peers::python;
use ckpt_kit::servers::{Nginx, azure, s3};
use serde_json::{Value, json};

use crate::program;

const RUN: &str = "tests/fixtures/healthy-run";
const DEAD: &str = "tests/fixtures/collapse-run/step-04000.pt";

/// A run of `ckpt` without credentials of the user, and with `variables`.
pub(super) fn run<A: AsRef<OsStr>>(program: &Program, variables: &[(&str, &str)], arguments: &[A]) -> Ran {
    let mut command = program.command(arguments);
    let theirs = ["AWS_", "AZURE_", "GOOGLE_", "HF_"];
    for (name, _) in std::env::vars() {
        if theirs.iter().any(|prefix| name.starts_with(prefix)) || name.to_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    Ran::of(command.envs(variables.iter().copied()))
}

/// Fails, and shows where they begin to differ, unless both are the same.
#[track_caller]
fn assert_same(there: &Value, here: &Value) {
    if there != here {
        let [there, here] = [there, here].map(|value| serde_json::to_string_pretty(value).unwrap());
        let at = there.lines().zip(here.lines()).position(|(a, b)| a != b).unwrap_or(0);
        let part = |text: &str| text.lines().skip(at).take(3).collect::<Vec<_>>().join(" ");
        panic!("there: {}\nhere: {}", part(&there), part(&here));
    }
}

/// What `ckpt inspect --format json` says of `path`, but for where it is and what only a file of this machine has.
fn seen(program: &Program, variables: &[(&str, &str)], path: &str) -> Value {
    let ran = run(program, variables, &["inspect", "--no-cache", "--sha256", "--format", "json", path]);
    let mut value: Value = ran.json();
    let record = match &mut value {
        Value::Array(list) => list.first_mut().unwrap(),
        other => other,
    };
    record.as_object_mut().unwrap().remove("path");
    value
}

/// Variables for the S3 server at `url`.
pub(super) fn keys(url: &str) -> [(&str, &str); 3] {
    [("AWS_ENDPOINT_URL", url), ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]
}

/// A SafeTensors file of 5 GB, of which the disk holds the header only.
pub(super) fn large(path: &Path) {
    let (layers, rows, cols) = (80u64, 4096, 7629);
    let size = rows * cols * 2;
    let mut header = serde_json::Map::new();
    for layer in 0..layers {
        let begin = layer * size;
        let entry = json!({"dtype": "BF16", "shape": [rows, cols], "data_offsets": [begin, begin + size]});
        header.insert(format!("model.layers.{layer}.mlp.up_proj.weight"), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(8 + header.len() as u64 + layers * size).unwrap();
}

#[test]
fn a_file_of_a_web_server_reads_as_it_does_here() {
    let program = program();
    let folder = root().join("tests/fixtures");
    let Some(nginx) = Nginx::serving(&folder, "") else { return };
    let authority = nginx.authority();
    let trusted = [("SSL_CERT_FILE", authority.to_str().unwrap())];
    for file in
        ["healthy-run/step-02000.pt", "formats/deflated.pt", "formats/legacy.pt", "formats/training.pt"]
    {
        let here = folder.join(file);
        let url = format!("{}/{file}", nginx.secure_url());
        assert_same(&seen(&program, &trusted, &url), &seen(&program, &[], here.to_str().unwrap()));
    }
    let dead = format!("{}/collapse-run/step-04000.pt", nginx.url());
    run(&program, &[], &["gate", "--no-cache", &dead]).exits(1);
    run(&program, &[], &["scan", &format!("{}/formats/evil.pt", nginx.url())]).exits(1);
    // Who signed it is not known without being told.
    let distrusted = run(&program, &[], &["inspect", &format!("{}/formats/tied.pt", nginx.secure_url())]);
    distrusted.exits(3).complains(&["certificate"]);
}

#[cfg(all(feature = "diagnose", feature = "train"))]
#[test]
fn every_command_reads_a_checkpoint_at_a_url() {
    let program = program().in_its_folder();
    let Some(nginx) = Nginx::serving(&root().join(RUN), "") else { return };
    let url = format!("{}/step-02000.pt", nginx.url());
    let data = root().join("tests/fixtures/trajectories/truth.safetensors");
    let data = ["--data", data.to_str().unwrap(), "--length", "16", "--batch", "2"];
    let (train, taught) = (["train", "--resume", &url, "--reset-optimizer"], ["train", "--init", &url]);
    let teacher = ["--teacher", url.as_str()];
    let tokenizer = root().join("tests/fixtures/tokenizer.json");
    let tokenizer = tokenizer.to_str().unwrap();
    for (arguments, code) in [
        (&["inspect", "--no-cache", &url][..], 0),
        (&["gate", "--no-cache", &url], 0),
        (&["report", "--no-cache", &url, "-o", "report.html"], 0),
        (&["diff", &url, &url], 0),
        (&["verify", &url, &url], 0),
        (&["scan", &url], 0),
        (&["convert", &url, "--to", "safetensors", "-o", "copy.safetensors"], 0),
        (&["edit", &url, "--strip-optimizer", "-o", "edited.pt"], 0),
        (&["recover", &url, "-o", "recovered.pt"], 0),
        (&["infer", &url, "--ids", "1,2", "-n", "2"], 0),
        (&["bench", &url, "--prompt", "8", "--context", "4", "-n", "2", "--repeat", "1"], 0),
        (&["chat", &url, "--template", "plain", "--tokenizer", tokenizer], 0),
        (&["diagnose", &url, "--tokenizer", tokenizer, "--max-tokens", "8"], 1),
        (&[&train[..], &data, &["--steps", "2001", "-o", "resumed"]].concat(), 0),
        (&[&taught[..], &teacher, &data, &["--steps", "1", "-o", "begun"]].concat(), 0),
    ] {
        let before = nginx.requests().len();
        let ran = run(&program, &[], arguments).exits(code);
        assert!(nginx.requests().len() > before, "it was not asked for: {ran}");
    }
}

#[test]
fn listing_a_large_file_takes_one_request_for_it() {
    let program = program();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    large(&file);
    let Some(nginx) = Nginx::serving(folder.path(), "") else { return };
    let url = format!("{}/model.safetensors", nginx.url());
    let ran = run(&program, &[], &["inspect", "--no-stats", "--no-cache", &url]);
    ran.exits(0).says(&["2.50 G"]);
    let requests = nginx.requests();
    let of_it: Vec<_> = requests.iter().filter(|r| r.what == "GET /model.safetensors").collect();
    assert_eq!(of_it.iter().map(|r| r.bytes).collect::<Vec<_>>(), [131_072], "{requests:#?}");
    // A server cannot tell what lies beside a file; what could belong to it is asked for by name, once.
    assert_eq!(requests.len(), 9, "{requests:#?}");
    assert!(requests.iter().all(|r| !r.range.is_empty()), "{requests:#?}");
}

#[test]
fn a_folder_in_a_bucket_reads_as_it_does_here() {
    let Some(server) = s3() else { return };
    let program = program();
    server.create("models");
    server.fill("models", "run", &root().join(RUN));
    server.fill("models", "collapse", &root().join("tests/fixtures/collapse-run"));
    let url = server.url();
    let keys = keys(&url);
    for file in ["step-00000.pt", "step-02000.pt"] {
        let here = root().join(RUN).join(file);
        assert_same(
            &seen(&program, &keys, &format!("s3://models/run/{file}")),
            &seen(&program, &[], here.to_str().unwrap()),
        );
    }
    run(&program, &keys, &["gate", "--no-cache", "s3://models/run"]).exits(0);
    let dead = run(&program, &keys, &["gate", "--no-cache", "s3://models/collapse"]);
    dead.exits(1).says(&["s3://models/collapse/step-04000.pt"]);
    let two = run(
        &program,
        &keys,
        &["inspect", "--no-cache", "--no-stats", "--format", "ndjson", "s3://models/run/step-0[12]*.pt"],
    );
    assert_eq!(two.exits(0).out().lines().count(), 2);
    run(&program, &keys, &["scan", "s3://models/"]).exits(0);
    let report = program.at("report.html");
    run(&program, &keys, &["report", "s3://models/collapse", "-o", report.to_str().unwrap()]).exits(0);
    assert!(std::fs::read_to_string(report).unwrap().contains("Collapsing"));
}

#[test]
fn a_conversion_from_a_bucket_is_that_of_the_same_file_here() {
    let Some(server) = s3() else { return };
    let program = program();
    server.create("models");
    server.fill("models", "run", &root().join(RUN));
    let url = server.url();
    let keys = keys(&url);
    let [there, here] = ["there.safetensors", "here.safetensors"].map(|name| program.at(name));
    let to = |source: &str, output: &Path| {
        run(&program, &keys, &["convert", source, "--to", "safetensors", "-o", output.to_str().unwrap()])
            .exits(0);
    };
    to("s3://models/run/step-02000.pt", &there);
    to(root().join(RUN).join("step-02000.pt").to_str().unwrap(), &here);
    assert!(std::fs::read(&there).unwrap() == std::fs::read(&here).unwrap());
    run(&program, &keys, &["verify", "s3://models/run/step-02000.pt", there.to_str().unwrap()]).exits(0);
    let refused = run(
        &program,
        &keys,
        &["convert", here.to_str().unwrap(), "--to", "gguf", "-o", "s3://models/out.gguf"],
    );
    refused.exits(4).complains(&["outputs are written to files of this machine"]);
}

#[test]
fn keys_are_read_where_the_clouds_programs_keep_them() {
    let Some(server) = s3() else { return };
    let program = program();
    server.create("models");
    server.fill("models", "run", &root().join(RUN));
    let config = program
        .file("config", format!("[profile lab]\nregion = us-east-1\nendpoint_url = {}\n", server.url()));
    let credentials =
        program.file("credentials", "[lab]\naws_access_key_id = a\naws_secret_access_key = b\n");
    let files = [
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap()),
        ("AWS_PROFILE", "lab"),
    ];
    run(&program, &files, &["gate", "--no-cache", "s3://models/run/step-02000.pt"]).exits(0);
}

#[test]
fn a_container_of_azure_reads_as_a_folder_does_here() {
    const KEY: &str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    let (Some(server), Some(python)) = (azure(), python(&["azure.storage.blob"])) else { return };
    let program = program();
    let endpoint = format!("{}/devstoreaccount1", server.url());
    let text = format!(
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={KEY};BlobEndpoint={endpoint};"
    );
    let code = "import sys, pathlib\nfrom azure.storage.blob import BlobServiceClient\n\
        c = BlobServiceClient.from_connection_string(sys.argv[1]).create_container('models')\n\
        [c.upload_blob('run/' + p.name, p.read_bytes()) for p in pathlib.Path(sys.argv[2]).iterdir()]";
    let folder = root().join(RUN);
    python.code(code, &[&text, folder.to_str().unwrap()]);
    let by_string = [("AZURE_STORAGE_CONNECTION_STRING", &*text)];
    let by_parts = [
        ("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1"),
        ("AZURE_STORAGE_ACCOUNT_KEY", KEY),
        ("AZURE_STORAGE_ENDPOINT", &endpoint),
    ];
    let here = seen(&program, &[], folder.join("step-02000.pt").to_str().unwrap());
    assert_same(&seen(&program, &by_string, "az://models/run/step-02000.pt"), &here);
    assert_same(&seen(&program, &by_parts, "az://models/run/step-02000.pt"), &here);
    run(&program, &by_string, &["gate", "--no-cache", "az://models/run"]).exits(0);
    let denied = run(
        &program,
        &[("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1"), ("AZURE_STORAGE_ENDPOINT", &*endpoint)],
        &["inspect", "az://models/run"],
    );
    denied.exits(3).complains(&["AZURE_STORAGE_ACCOUNT_KEY"]);
}

/// A folder as nginx serves it in place of the Hub: what its API says of `model`, and the files themselves on another host.
fn hub(model: &Path) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let api = folder.path().join("api/models/lab/student");
    std::fs::create_dir_all(api.join("revision")).unwrap();
    std::fs::create_dir_all(api.join("tree")).unwrap();
    std::fs::write(api.join("revision/main"), json!({"sha": commit}).to_string()).unwrap();
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(model).unwrap() {
        let entry = entry.unwrap();
        let (name, size) = (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len());
        entries.push(json!({"type": "file", "path": name, "size": size, "oid": "1", "lfs": {"oid": "2", "size": size}}));
    }
    std::fs::write(api.join("tree").join(commit), Value::from(entries).to_string()).unwrap();
    let more = format!(
        "location /api {{ if ($http_authorization != \"Bearer hf_key\") {{ return 401; }} }}\n\
         location /lab/student/resolve/{commit}/ {{ if ($http_authorization != \"Bearer hf_key\") {{ return 401; }}\n\
         rewrite ^/lab/student/resolve/{commit}/(.*)$ https://localhost:$server_port/files/$1?signed=yes redirect; }}\n\
         location /files/ {{ if ($http_authorization) {{ return 400; }} if ($arg_signed != \"yes\") {{ return 403; }} alias {}/; }}",
        model.display()
    );
    (folder, more)
}

#[test]
fn a_repository_of_the_hub_reads_as_a_folder_does_here() {
    let program = program();
    let model = root().join(RUN);
    let (folder, more) = hub(&model);
    // Files come from another host, which must not see the token.
    let Some(files) = Nginx::serving(folder.path(), &more) else { return };
    let port = files.secure_url().rsplit_once(':').unwrap().1.to_string();
    let more = more.replace("$server_port", &port);
    let Some(nginx) = Nginx::serving(folder.path(), &more) else { return };
    let (endpoint, authority) = (nginx.url(), files.authority());
    let variables =
        [("HF_ENDPOINT", &*endpoint), ("HF_TOKEN", "hf_key"), ("SSL_CERT_FILE", authority.to_str().unwrap())];
    let here = seen(&program, &[], model.join("step-02000.pt").to_str().unwrap());
    assert_same(&seen(&program, &variables, "hf://lab/student/step-02000.pt"), &here);
    // The Hub is asked for the address of a file once.
    let asked = nginx.requests();
    assert_eq!(asked.iter().filter(|r| r.what.contains("/resolve/")).count(), 1, "{asked:#?}");
    run(&program, &variables, &["gate", "--no-cache", "hf://lab/student"]).exits(0);
    let two = run(
        &program,
        &variables,
        &[
            "inspect",
            "--no-cache",
            "--no-stats",
            "--format",
            "ndjson",
            "hf://lab/student@main/step-0[12]*.pt",
        ],
    );
    assert_eq!(two.exits(0).out().lines().count(), 2);
    let locked = run(&program, &[("HF_ENDPOINT", &*endpoint)], &["inspect", "hf://lab/student"]);
    locked.exits(3).complains(&["set HF_TOKEN"]);
    let unknown = run(&program, &variables, &["inspect", "hf://lab/other/model.safetensors"]);
    unknown.exits(3).complains(&["no such repository"]);
    let offline = run(&program, &[("HF_HUB_OFFLINE", "1")], &["inspect", "hf://lab/student"]);
    offline.exits(3).complains(&["HF_HUB_OFFLINE"]);
}

#[test]
fn the_signature_of_a_url_opens_the_file_and_is_not_told() {
    let program = program();
    let more = "location / { if ($arg_signature != \"sesame\") { return 403; } }";
    let Some(nginx) = Nginx::serving(&root().join(RUN), more) else { return };
    let url = format!("{}/step-02000.pt", nginx.url());
    let signed = format!("{url}?signature=sesame");
    let ran = run(&program, &[], &["inspect", "--no-cache", "--format", "json", &signed]);
    let ran = ran.exits(0).says(&[&url]);
    assert!(!ran.out().contains("sesame"));
    let report = program.at("report.html");
    run(&program, &[], &["report", &signed, "-o", report.to_str().unwrap()]).exits(0);
    assert!(!std::fs::read_to_string(report).unwrap().contains("sesame"));
    let denied = run(&program, &[], &["inspect", &url]);
    denied.exits(3).complains(&["denies access (403)"]);
}

#[test]
fn parameters_that_say_which_file_is_meant_stay() {
    let program = program();
    let more = "location /get { if ($http_authorization != \"Basic dXNlcjpzZWNyZXQ=\") { return 401; }\n\
        if ($arg_signature != \"sesame\") { return 403; }\n\
        if ($arg_id = \"1\") { rewrite ^ /healthy-run/step-02000.pt last; }\n\
        if ($arg_id = \"2\") { rewrite ^ /collapse-run/step-04000.pt last; } return 404; }";
    let Some(nginx) = Nginx::serving(&root().join("tests/fixtures"), more) else { return };
    let host = nginx.url().replace("http://", "http://user:secret@");
    let [first, second] = ["1", "2"].map(|id| format!("{host}/get?id={id}&signature=sesame"));
    let differ = run(&program, &[], &["diff", &first, &second]).exits(1);
    run(&program, &[], &["gate", "--no-cache", &first]).exits(0);
    let worse = run(&program, &[], &["gate", "--no-cache", &second, "--baseline", &first]).exits(1);
    let broken = run(
        &program,
        &[],
        &["gate", "--no-cache", &first, "--baseline", &format!("{host}/none?signature=sesame")],
    );
    let broken = broken.exits(3);
    for ran in [differ, worse, broken] {
        for secret in ["sesame", "secret"] {
            assert!(!ran.out().contains(secret) && !ran.err().contains(secret), "{ran}");
        }
    }
}

#[test]
fn a_companion_that_cannot_be_asked_for_is_not_taken_for_missing() {
    let program = program();
    let more = "location /config.json { return 500; }";
    let folder = tempfile::tempdir().unwrap();
    large(&folder.path().join("model.safetensors"));
    let Some(nginx) = Nginx::serving(folder.path(), more) else { return };
    let url = format!("{}/model.safetensors", nginx.url());
    run(&program, &[], &["inspect", "--no-stats", &url]).exits(3).complains(&["config.json", "500"]);
}

#[test]
fn another_range_than_was_asked_for_is_an_error() {
    use std::io::{BufRead, BufReader};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let _ = lines.map_while(Result::ok).find(|line| line.is_empty());
            let answer = "HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\nContent-Range: bytes 4-7/8\r\nConnection: close\r\n\r\nwxyz";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let url = format!("http://127.0.0.1:{port}/model.pt");
    run(&program(), &[], &["inspect", &url]).exits(3).complains(&["another range"]);
}

#[test]
fn a_host_that_does_not_answer_is_not_asked_for_each_name() {
    let program = program();
    let begin = std::time::Instant::now();
    run(&program, &[], &["inspect", "http://127.0.0.1:1/a/model.safetensors", "http://127.0.0.1:1/b.pt"])
        .exits(3);
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
}

#[test]
fn what_is_not_there_or_cannot_be_reached_is_said_with_what_to_set() {
    let program = program();
    let says = |variables: &[(&str, &str)], url: &str, words: &[&str]| {
        let ran = run(&program, variables, &["inspect", url]);
        ran.exits(3).complains(words);
    };
    says(&[], "http://127.0.0.1:1/model.pt", &["does not answer", "HTTPS_PROXY"]);
    let nowhere = [("AWS_ENDPOINT_URL", "http://127.0.0.1:1")];
    says(&nowhere, "s3://models/run", &["S3 gives no answer", "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL"]);
    says(&[("HF_ENDPOINT", "http://127.0.0.1:1")], "hf://lab/student", &["does not answer", "HTTPS_PROXY"]);
    says(&[], "hf://student", &["organisation"]);
    says(&[], "ftp://host/model.pt", &["ftp:// is not read, but these are", "s3://", "hf://", "https://"]);
    says(&[], "az://models/run", &["Azure", "AZURE_STORAGE_ACCOUNT_NAME"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("whole")).unwrap();
    large(&folder.path().join("whole/large.pt"));
    if let Some(nginx) = Nginx::serving(folder.path(), "location /whole/ { max_ranges 0; }") {
        says(&[], &format!("{}/none.pt", nginx.url()), &["does not exist"]);
        says(&[], &format!("{}/whole/large.pt", nginx.url()), &["does not serve parts of files"]);
    }
    if let Some(server) = s3() {
        let url = server.url();
        let keys = keys(&url);
        says(&keys, "s3://none/model.pt", &["bucket or container does not exist"]);
        server.create("models");
        says(&keys, "s3://models/model.pt", &["does not exist"]);
    }
}

#[test]
fn a_distributed_checkpoint_in_a_bucket_is_one_checkpoint() {
    let (Some(server), Some(python)) = (s3(), python(&["torch"])) else { return };
    let program = program();
    let folder = program.at("dcp");
    let code = "import sys, torch, torch.distributed.checkpoint as dcp\n\
        g = torch.Generator().manual_seed(1)\n\
        dcp.save({'model': {f'layers.{i}.weight': torch.randn(64, 32, generator=g) for i in range(4)}}, checkpoint_id=sys.argv[1])";
    python.code(code, &[&folder]);
    server.create("models");
    server.fill("models", "dcp", &folder);
    let url = server.url();
    let keys = keys(&url);
    let here = seen(&program, &[], folder.to_str().unwrap());
    assert_same(&seen(&program, &keys, "s3://models/dcp"), &here);
    assert_same(&seen(&program, &keys, "s3://models/dcp/.metadata"), &here);
}

#[test]
fn a_server_that_fails_for_a_moment_is_asked_again() {
    use std::io::{BufRead, BufReader};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let bytes = std::fs::read(root().join(DEAD)).unwrap();
    std::thread::spawn(move || {
        // How often each range was asked for, or what was left of it.
        let mut asked: HashMap<usize, usize> = HashMap::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut range, mut wanted) = (None, true);
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let line = line.unwrap_or_default().to_lowercase();
                wanted &= !line.starts_with("get ") || line.contains("/model.pt ");
                if let Some(ends) = line.strip_prefix("range: bytes=").and_then(|r| r.split_once('-')) {
                    range = Some((ends.0.parse::<usize>().unwrap(), ends.1.parse::<usize>().unwrap()));
                }
                if line.is_empty() {
                    break;
                }
            }
            let Some((start, end)) = range else { continue };
            let part = &bytes[start..(end + 1).min(bytes.len())];
            let head = |status: &str, len: usize| {
                let total = bytes.len();
                format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {len}\r\nContent-Range: bytes {start}-{end}/{total}\r\nConnection: close\r\n\r\n"
                )
            };
            let nth = asked.entry(end).or_default();
            *nth += 1;
            let _ = match (*nth - 1) % 3 {
                _ if !wanted => stream.write_all(head("404 Not Found", 0).as_bytes()),
                // It is overloaded, then breaks off in the middle, and then answers.
                0 => stream.write_all(head("503 Service Unavailable", 0).as_bytes()),
                1 => stream
                    .write_all(head("206 Partial Content", part.len()).as_bytes())
                    .and_then(|()| stream.write_all(&part[..part.len() / 2])),
                _ => stream
                    .write_all(head("206 Partial Content", part.len()).as_bytes())
                    .and_then(|()| stream.write_all(part)),
            };
        }
    });
    let program = program();
    let url = format!("http://127.0.0.1:{port}/model.pt");
    assert_same(&seen(&program, &[], &url), &seen(&program, &[], root().join(DEAD).to_str().unwrap()));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let program = program();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    large(&file);
    let Some(nginx) = Nginx::serving(folder.path(), "") else { return };
    let url = format!("{}/model.safetensors", nginx.url());
    let running = program.start(&["inspect", "--no-cache", &url]);
    while nginx.requests().iter().all(|r| r.bytes < 1 << 20) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let touched = Command::new("touch").args(["-d", "2001-01-01"]).arg(&file).status().unwrap();
    assert!(touched.success());
    let ran = running.end().exits(3);
    assert!(
        ran.out().contains("has changed") || ran.err().contains("has changed"),
        "{}{}",
        ran.out(),
        ran.err()
    );
}
