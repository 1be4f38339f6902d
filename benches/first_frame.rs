//! How long it takes `ckpt browse`, from its start, to have drawn its first whole screen of a checkpoint of 100 M
//! parameters in f32, in a pseudo-terminal. `docs/benchmarks.md` tells how to run it and what the figures mean.

use std::error::Error;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::student::Student;
use portable_pty::{CommandBuilder, PtySize, native_pty_system};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CKPT: &str = env!("CARGO_BIN_EXE_ckpt");
const TURNS: usize = 41;
const LIMIT: Duration = Duration::from_millis(100);

fn main() -> Result<()> {
    // `cargo test --benches` runs every benchmark without this flag, only to see it start.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let safetensors = write(folder.path());
    let torch = folder.path().join("student-125m.pt");
    let converted = Command::new(CKPT)
        .args(["convert", "--to", "pt", "--allow-collapsed", "--no-verify", "-o"])
        .args([&torch, &safetensors])
        .output()?;
    if !converted.status.success() {
        return Err(String::from_utf8_lossy(&converted.stderr).into());
    }
    println!("{:<24}{:>10}{:>12}{:>12}{:>12}", "first frame", "size", "fastest", "median", "slowest");
    let mut late = false;
    for path in [safetensors, torch] {
        let mut times = (0..TURNS).map(|_| first_frame(&path)).collect::<Result<Vec<Duration>>>()?;
        times.sort();
        let mib = std::fs::metadata(&path)?.len() >> 20;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let [fastest, median, slowest] = [times[0], times[TURNS / 2], times[TURNS - 1]]
            .map(|time| format!("{:.1} ms", 1e3 * time.as_secs_f64()));
        println!("{name:<24}{:>10}{fastest:>12}{median:>12}{slowest:>12}", format!("{mib} MiB"));
        late |= times[TURNS / 2] > LIMIT;
    }
    if late { Err(format!("more than {LIMIT:?}").into()) } else { Ok(()) }
}

/// From the start of the program to the bytes that complete its first screen.
fn first_frame(path: &Path) -> Result<Duration> {
    let pty = native_pty_system().openpty(PtySize { rows: 40, cols: 120, ..PtySize::default() })?;
    let mut command = CommandBuilder::new(CKPT);
    command.args(["browse", "--no-cache"]);
    command.arg(path);
    command.env("TERM", "xterm-256color");
    let mut reader = pty.master.try_clone_reader()?;
    let mut screen = vt100::Parser::new(40, 120, 0);
    let mut buffer = [0; 65536];
    let start = Instant::now();
    let mut child = pty.slave.spawn_command(command)?;
    let time = loop {
        let read = reader.read(&mut buffer)?;
        let time = start.elapsed();
        screen.process(&buffer[..read]);
        let text = screen.screen().contents();
        if text.contains("embed_tokens.weight") && text.contains("? help") {
            break time;
        }
    };
    pty.master.take_writer()?.write_all(b"q")?;
    // Who does not listen lets the program wait with its last words.
    drop(std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink())));
    child.wait()?;
    Ok(time)
}

/// The student model's 125m preset as a SafeTensors file, all of it a hole: what the values are costs no time here.
fn write(folder: &Path) -> PathBuf {
    let (heads, kv_heads, head_dim) = (12, 4, 64);
    let student =
        Student { vocab: 32_000, width: 768, layers: 12, heads, kv_heads, head_dim, mlp: 2048, tied: true };
    let shapes = student.shapes();
    let file = shapes.iter().fold(SafeTensors::new(), |file, (name, shape)| file.hole(name, shape));
    let path = folder.join("student-125m.safetensors");
    file.write_holes(&path);
    path
}
