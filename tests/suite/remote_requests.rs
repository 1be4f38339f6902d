//! What is asked of servers, how often, and what is said when they refuse.

use std::path::Path;

use ckpt_kit::fixtures::root;
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::servers::{Nginx, s3};

use crate::program;
use crate::remote::{keys, run};

const RUN: &str = "tests/fixtures/healthy-run";

/// A server that passes everything on to the one at `url`, and records it.
fn recorded(url: &str, folder: &Path) -> Option<Nginx> {
    Nginx::serving(folder, &format!("location / {{ proxy_pass {url}; proxy_set_header Host $http_host; }}"))
}

#[test]
fn keys_that_can_be_no_paths_are_left_out_and_told() {
    let Some(server) = s3().filter(|server| server.takes_any_key()) else { return };
    let program = program();
    server.create("models");
    let small = SafeTensors::new().f32s("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]).bytes();
    let odd = ["a//x.txt", "b/./x.txt", "c/../x.txt", "d/tab%09.txt", "e/del%7F.txt", "f/below//x.txt"];
    for key in odd {
        server.put("models", key, b"x");
        server.put("models", &format!("{}/model.safetensors", &key[..1]), &small);
    }
    let url = server.url();
    let keys = keys(&url);
    for key in odd {
        let folder = format!("s3://models/{}", &key[..1]);
        for path in [folder.clone(), format!("{folder}/model.safetensors")] {
            let ran = run(&program, &keys, &["inspect", "--no-cache", &path]).exits(0);
            assert!(ran.out().contains("1 tensor"), "{path}: {ran}");
        }
    }
    let all = run(&program, &keys, &["inspect", "--no-cache", "--format", "ndjson", "s3://models"]);
    let all = all.exits(0).complains(&["can be no paths", "s3://models/a//", "and 5 more"]);
    assert_eq!(all.out().lines().count(), 6, "{all}");
}

#[test]
fn a_folder_of_many_folders_takes_a_request_for_each_file_and_few_more() {
    const FOLDERS: usize = 1100;
    let Some(server) = s3() else { return };
    let program = program();
    server.create("models");
    let folder = tempfile::tempdir().unwrap();
    for step in 0..FOLDERS {
        let within = folder.path().join(format!("step-{step:05}"));
        std::fs::create_dir(&within).unwrap();
        SafeTensors::new().f32s("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]).write(&within.join("model.safetensors"));
    }
    server.fill("models", "many", folder.path());
    let Some(asked) = recorded(&server.url(), folder.path()) else { return };
    let url = asked.url();
    let keys = keys(&url);
    let list = |path: &str| {
        let arguments = ["inspect", "--no-stats", "--no-cache", "--format", "ndjson", path];
        let ran = run(&program, &keys, &arguments).exits(0);
        assert_eq!(ran.out().lines().count(), FOLDERS);
        let requests = asked.requests();
        let (listings, files): (Vec<_>, Vec<_>) =
            requests.iter().partition(|request| request.what.contains("list-type"));
        println!("{path}: {} listings, {} others", listings.len(), files.len());
        assert!(listings.len() <= 12, "{} listings, such as {:#?}", listings.len(), &listings[..12]);
        // A pattern may be a name, which is asked for first.
        assert!(files.len() <= FOLDERS + 1, "{} others", files.len());
    };
    list("s3://models/many");
    list("s3://models/many/step-*/model.safetensors");
}

#[test]
fn a_small_file_takes_few_requests() {
    let program = program();
    let Some(python) = ckpt_kit::peers::python(&["torch"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.pt");
    let code = "import sys, torch\n\
        torch.save({f'layers.{i}.weight': torch.randn(96, 96) for i in range(30)}, sys.argv[1])";
    python.code(code, &[&file]);
    let Some(nginx) = Nginx::serving(folder.path(), "") else { return };
    let url = format!("{}/model.pt", nginx.url());
    for command in ["scan", "inspect"] {
        run(&program, &[], &[command, &url]).exits(0);
        let requests = nginx.requests();
        let of_it = requests.iter().filter(|r| r.what == "GET /model.pt").count();
        println!("{command}: {of_it} requests for {} bytes", std::fs::metadata(&file).unwrap().len());
        assert!(of_it <= 2, "{command}: {requests:#?}");
    }
}

#[test]
fn who_is_denied_is_told_what_to_try_and_does_not_ask_on() {
    let program = program();
    let Some(nginx) = Nginx::serving(&root().join(RUN), "location / { return 403; }") else { return };
    let url = format!("{}/step-02000.pt", nginx.url());
    for command in ["inspect", "gate", "scan"] {
        let ran = run(&program, &[], &[command, &url]).exits(3);
        for words in ["denies access (403)", "USER:PASSWORD@", "signature"] {
            assert!(ran.out().contains(words) || ran.err().contains(words), "{words}: {ran}");
        }
        let requests = nginx.requests();
        assert_eq!(requests.len(), 1, "{command}: {requests:#?}");
    }
    // As the Hub answers for a repository that has to be asked for.
    let hub = nginx.url();
    let gated =
        run(&program, &[("HF_ENDPOINT", &*hub), ("HF_TOKEN", "hf_key")], &["inspect", "hf://lab/gated"]);
    gated.exits(3).complains(&["access has to be asked for", "HF_TOKEN"]);
    let requests = nginx.requests();
    assert_eq!(requests.len(), 1, "{requests:#?}");
}

#[test]
fn urls_that_cannot_be_right_are_told_so() {
    let program = program();
    let Some(nginx) = Nginx::serving(&root().join(RUN), "") else { return };
    let [plain, secure] = [nginx.url(), nginx.secure_url()];
    let says = |url: &str, words: &[&str], not: &str| {
        let ran = run(&program, &[], &["inspect", url]).exits(3).complains(words);
        assert!(!ran.err().contains(not) && !ran.out().contains(not), "{ran}");
    };
    let encrypted = plain.replace("http://", "https://");
    says(&format!("{encrypted}/step-02000.pt"), &["does not answer with TLS", "http://"], "proxy");
    says("http:///model.pt", &["no URL of a server"], "proxy");
    says("http://", &["no URL of a server"], "proxy");
    let authority = nginx.authority();
    let trusted = [("SSL_CERT_FILE", authority.to_str().unwrap())];
    for url in
        [plain.replace("http", "HTTP"), secure.replace("https", "HTTPS").replace("localhost", "LOCALHOST")]
    {
        run(&program, &trusted, &["inspect", "--no-cache", &format!("{url}/step-02000.pt")]).exits(0);
    }
}

#[test]
fn a_certificate_that_openssl_signs_by_itself_is_trusted_when_it_is_named() {
    let program = program();
    let served = || Nginx::signing_itself(&root().join(RUN));
    let (Some(nginx), Some(other)) = (served(), served()) else { return };
    let [own, other] = [&nginx, &other].map(|nginx| nginx.certificate().to_str().unwrap().to_string());
    let url = format!("{}/step-02000.pt", nginx.secure_url());
    let ran = |certificates: &str, url: &str| {
        run(&program, &[("SSL_CERT_FILE", certificates)], &["inspect", "--no-cache", url])
    };
    ran(&own, &url).exits(0);
    // It is the one named, and no other; for the names that it has.
    ran(&other, &url).exits(3).complains(&["not trusted", "SSL_CERT_FILE"]);
    let elsewhere = url.replace("localhost", "127.0.0.1");
    ran(&own, &elsewhere).exits(3).complains(&["not trusted"]);
    let missing = own.replace("own.pem", "none.pem");
    ran(&missing, &url).exits(3).complains(&["SSL_CERT_FILE", &missing]);
    ran(&own.replace("own.pem", "own.key"), &url).exits(3).complains(&["holds no certificate"]);
    let folders = run(&program, &[("SSL_CERT_DIR", &*missing)], &["inspect", &url]);
    folders.exits(3).complains(&["SSL_CERT_DIR", &missing]);
}
