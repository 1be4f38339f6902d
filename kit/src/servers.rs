//! Servers on this machine that files are read from: nginx, an S3 server (moto or s3s-fs), and Azure's emulator (azurite).
//!
//! Without them, a test that needs one prints that it skips, or fails if `CKPT_REQUIRE_PEERS=1`. `CKPT_AZURITE` names the
//! emulator; moto is a package of the Python that `CKPT_PEERS_PYTHON` names.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::peers::skip;

/// A server that ends with this.
pub struct Server {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that was free just now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

impl Server {
    /// Runs what `command` makes for a port and a folder of its own, until something listens there.
    fn start(command: impl FnOnce(u16, &Path) -> Command) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let mut command = command(port, folder.path());
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Server { process, port, folder };
        let begin = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(60), "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Where it is: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The answer to a request with a body: its status, and what follows its head.
    fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let status = String::from_utf8_lossy(answer.get(9..12).unwrap_or_default()).parse().unwrap_or(0);
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        (status, answer.split_off(end))
    }
}

/// nginx, which serves a folder and records what it is asked for.
pub struct Nginx {
    server: Server,
    secure: u16,
}

/// A request that nginx has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET /model.safetensors`.
    pub what: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// The range that was asked for, as it was.
    pub range: String,
}

impl Nginx {
    /// nginx that serves `root`, with `more` in the configuration of its server, if it is installed.
    pub fn serving(root: &Path, more: &str) -> Option<Self> {
        Self::start(root, more, certificate)
    }

    /// The same with a certificate for `localhost` that no authority has signed, as `openssl req -x509` makes it.
    pub fn signing_itself(root: &Path) -> Option<Self> {
        Self::start(root, "", |folder| {
            signed(folder, "own", &["-subj", "/CN=localhost", "-addext", NAMES[0]])
        })
    }

    fn start(root: &Path, more: &str, certify: impl FnOnce(&Path)) -> Option<Self> {
        let found = ["/usr/sbin/nginx", "/usr/bin/nginx", "/opt/homebrew/bin/nginx"];
        let Some(program) = found.into_iter().map(Path::new).find(|path| path.is_file()) else {
            skip("CKPT_REQUIRE_PEERS", "nginx is not installed");
            return None;
        };
        let secure = free_port();
        let server = Server::start(|port, folder| {
            certify(folder);
            let at = folder.display();
            let root = root.display();
            let config = format!(
                "daemon off; master_process off; error_log {at}/error.log; pid {at}/pid;\n\
                 events {{}}\n\
                 http {{\n\
                 log_format asked '$request_method $request_uri|$status|$body_bytes_sent|$http_range';\n\
                 access_log {at}/access.log asked;\n\
                 client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
                 uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
                 server {{ listen 127.0.0.1:{port}; listen 127.0.0.1:{secure} ssl; root {root};\n\
                 ssl_certificate {at}/own.pem; ssl_certificate_key {at}/own.key;\n{more}\n}} }}\n"
            );
            std::fs::write(folder.join("nginx.conf"), config).unwrap();
            let mut command = Command::new(program);
            command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf"));
            command
        });
        Some(Nginx { server, secure })
    }

    /// Where it is, without encryption.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Where it is, with a certificate for `localhost`.
    pub fn secure_url(&self) -> String {
        format!("https://localhost:{}", self.secure)
    }

    /// The certificate that has signed its own.
    pub fn authority(&self) -> PathBuf {
        self.server.folder.path().join("authority.pem")
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.server.folder.path().join("own.pem")
    }

    /// What it was asked for since it was asked this last.
    pub fn requests(&self) -> Vec<Request> {
        let path = self.server.folder.path().join("access.log");
        let text = std::fs::read_to_string(&path).unwrap();
        // It goes on writing at the end, wherever that is.
        std::fs::write(&path, "").unwrap();
        let request = |line: &str| {
            let mut parts = line.trim_start_matches('\0').split('|').map(String::from);
            let mut part = || parts.next().unwrap_or_default();
            let (what, status, bytes, range) = (part(), part(), part(), part());
            Request { what, status: status.parse().unwrap(), bytes: bytes.parse().unwrap(), range }
        };
        text.lines().map(request).collect()
    }
}

/// The names in certificates: with and without the address.
const NAMES: [&str; 2] = ["subjectAltName=DNS:localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1"];

/// A certificate called `name` in `folder`, and its key.
fn signed(folder: &Path, name: &str, more: &[&str]) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]).args(more);
    command.arg("-keyout").arg(folder.join(format!("{name}.key")));
    let made = command.arg("-out").arg(folder.join(format!("{name}.pem"))).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A certificate for `localhost`, and that of the authority that has signed it, in `folder`.
fn certificate(folder: &Path) {
    signed(folder, "authority", &["-subj", "/CN=authority"]);
    let [authority, key] =
        ["authority.pem", "authority.key"].map(|name| folder.join(name).display().to_string());
    let own =
        ["-subj", "/CN=localhost", "-addext", NAMES[1], "-addext", "basicConstraints=critical,CA:FALSE"];
    signed(folder, "own", &[&own[..], &["-CA", &authority, "-CAkey", &key]].concat());
}

/// An S3 server.
pub struct S3 {
    server: Server,
    /// Where it keeps buckets as folders, if it does.
    folder: Option<PathBuf>,
}

/// An S3 server without anything in it, if there is one: s3s-fs, if `CKPT_S3` names it, or moto. Its keys are `a` and `b`.
pub fn s3() -> Option<S3> {
    if let Some(program) = std::env::var_os("CKPT_S3") {
        let mut kept = PathBuf::new();
        let server = Server::start(|port, folder| {
            kept = folder.to_path_buf();
            let mut command = Command::new(program);
            command.args(["--access-key", "a", "--secret-key", "b", "--host", "127.0.0.1"]);
            command.args(["--port", &port.to_string()]).arg(folder);
            command
        });
        return Some(S3 { server, folder: Some(kept) });
    }
    crate::peers::python(&["moto", "flask"])?;
    let python = std::env::var_os("CKPT_PEERS_PYTHON")?;
    let server = Server::start(|port, _| {
        let mut command = Command::new(python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        command
    });
    Some(S3 { server, folder: None })
}

impl S3 {
    /// Where it is.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Makes a bucket.
    pub fn create(&self, bucket: &str) {
        match &self.folder {
            Some(folder) => std::fs::create_dir(folder.join(bucket)).unwrap(),
            None => self.send(&format!("/{bucket}"), b""),
        }
    }

    /// Puts the files of `folder` below `prefix` of a bucket.
    pub fn fill(&self, bucket: &str, prefix: &str, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let at = format!("{prefix}/{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                self.fill(bucket, &at, &path);
            } else if let Some(kept) = &self.folder {
                let place = kept.join(bucket).join(&at);
                std::fs::create_dir_all(place.parent().unwrap()).unwrap();
                std::fs::copy(&path, place).unwrap();
            } else {
                self.send(&format!("/{bucket}/{at}"), &std::fs::read(&path).unwrap());
            }
        }
    }

    /// Puts `body` at `key` of a bucket, as it is written in a URL. Where buckets are folders, there are no keys but paths.
    pub fn put(&self, bucket: &str, key: &str, body: &[u8]) {
        self.send(&format!("/{bucket}/{key}"), body);
    }

    /// Whether any key can be put, and not only paths.
    pub fn takes_any_key(&self) -> bool {
        self.folder.is_none()
    }

    fn send(&self, path: &str, body: &[u8]) {
        let (status, answer) = self.server.request("PUT", path, body);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    }
}

/// Azure's emulator without anything in it, if there is one.
pub fn azure() -> Option<Server> {
    let program = std::env::var_os("CKPT_AZURITE").filter(|path| Path::new(path).exists());
    let Some(program) = program else {
        skip("CKPT_REQUIRE_PEERS", "CKPT_AZURITE names no azurite-blob");
        return None;
    };
    Some(Server::start(|port, folder| {
        let mut command = Command::new(program);
        let quiet = ["--silent", "--skipApiVersionCheck", "--disableTelemetry"];
        command.args(["--blobPort".as_ref(), port.to_string().as_ref(), "-l".as_ref(), folder.as_os_str()]);
        command.args(quiet.map(OsStr::new));
        command
    }))
}
