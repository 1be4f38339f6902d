//! Writing whole or not at all, with child processes that are killed, alive, or under another umask.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use ckpt_inspect::staged::{self, Error, Occupant, StagedFile, StagedFolder};

const PLACE: &str = "CKPT_STAGED_PLACE";

/// What the children do: nothing, unless they are told where.
#[test]
fn child_begins_and_waits() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let mut file = StagedFile::begin(&place.join("file"), true).unwrap();
    file.write_all(b"half").unwrap();
    let folder = StagedFolder::create(&place.join("folder"), 10, true, |_| true).unwrap();
    folder.write("part", b"half").unwrap();
    println!("\nbegun");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    file.commit().unwrap();
    folder.commit(&[]).unwrap();
}

#[test]
fn child_writes() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    staged::write(&place.join("file"), b"new", true).unwrap();
    StagedFolder::create(&place.join("folder"), 0, true, |_| true).unwrap().commit(&[]).unwrap();
}

fn child(test: &str, place: &Path, umask: &str) -> Child {
    let me = std::env::current_exe().unwrap();
    let script = format!("umask {umask}; exec \"$0\" --exact staged::{test} --nocapture");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(me).env(PLACE, place);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn begun(place: &Path) -> Child {
    let mut child = child("child_begins_and_waits", place, "022");
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "begun"));
    child
}

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    all.sort();
    all
}

/// As if the process that wrote them had been killed days ago.
fn age(paths: &[PathBuf]) {
    let touched = Command::new("touch").args(["-h", "-t", "202001010000"]).args(paths).status().unwrap();
    assert!(touched.success());
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn what_a_killed_process_left_is_removed_and_what_a_living_one_writes_stays() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let mut killed = begun(place.path());
    assert_eq!(names(place.path()).len(), 2);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = names(place.path());
    assert_eq!(left.len(), 2, "killed processes leave what they began");
    if !cfg!(target_os = "linux") {
        // Nothing tells that it was this machine where they were.
        age(&left.iter().map(|name| at(name)).collect::<Vec<_>>());
    }

    let mut alive = begun(place.path());
    let left = names(place.path());
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().all(|name| name.starts_with(".ckpt-") && name.ends_with(".part")), "{left:?}");
    staged::write(&at("other"), b"x", false).unwrap();
    StagedFolder::create(&at("others"), 0, false, |_| true).unwrap().commit(&[]).unwrap();
    assert_eq!(names(place.path()), [&left[..], &["other".into(), "others".into()]].concat());

    alive.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    assert!(alive.wait().unwrap().success());
    assert_eq!(names(place.path()), ["file", "folder", "other", "others"]);
    assert_eq!(std::fs::read(at("file")).unwrap(), b"half");
    assert_eq!(std::fs::read(at("folder/part")).unwrap(), b"half");
}

#[test]
fn only_leftovers_of_our_own_are_removed() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let kept =
        [".ckpt-abcdefghijkl", ".ckpt-abcdefghijk.part", ".ckpt-abcdefghijk_.part", "ckpt-abcdefghijkl.part"];
    for name in kept {
        std::fs::write(at(name), "precious").unwrap();
    }
    std::fs::write(at("target"), "precious").unwrap();
    std::fs::create_dir(at("targets")).unwrap();
    std::fs::write(at("targets/file"), "precious").unwrap();
    symlink("target", at(".ckpt-linkAAAAAAAA.part")).unwrap();
    symlink("targets", at(".ckpt-linkBBBBBBBB.part")).unwrap();
    assert!(Command::new("mkfifo").arg(at(".ckpt-pipeAAAAAAAA.part")).status().unwrap().success());
    // Two folders in one are nothing that a writer leaves.
    std::fs::create_dir_all(at(".ckpt-deepAAAAAAAA.part/a")).unwrap();
    std::fs::create_dir_all(at(".ckpt-deepAAAAAAAA.part/b")).unwrap();
    let before = names(place.path());
    age(&before.iter().map(|name| at(name)).collect::<Vec<_>>());
    std::fs::write(at(".ckpt-fileAAAAAAAA.part"), "left").unwrap();
    std::fs::create_dir(at(".ckpt-dirAAAAAAAAA.part")).unwrap();
    symlink("../targets/file", at(".ckpt-dirAAAAAAAAA.part/link")).unwrap();
    age(&["fileAAAAAAAA.part", "dirAAAAAAAAA.part/link", "dirAAAAAAAAA.part"]
        .map(|name| at(&format!(".ckpt-{name}"))));
    staged::write(&at("zzz"), b"x", false).unwrap();
    assert_eq!(names(place.path()), [&before[..], &["zzz".into()]].concat());
    assert_eq!(std::fs::read(at("targets/file")).unwrap(), b"precious");
    assert_eq!(std::fs::read(at("target")).unwrap(), b"precious");
}

/// Releases without locks left other names. Nothing tells whether one is in use but when it was written to last.
#[test]
fn what_releases_without_locks_left_is_removed_when_it_is_a_day_old() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let aged = |name: &str, hours: u64| {
        let then = SystemTime::now() - Duration::from_secs(hours * 3600);
        std::fs::File::open(at(name)).unwrap().set_modified(then).unwrap();
    };
    let folder = |name: &str, hours: [u64; 2]| {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join("weights"), "half").unwrap();
        aged(&format!("{name}/weights"), hours[0]);
        aged(name, hours[1]);
    };
    // In use, perhaps; words; an older model, put aside, whose name is not known any more.
    for (name, hours) in
        [(".ckpt-aB3dE9", 23), (".ckpt-backup", 99), (".ckpt-model1", 99), (".ckpt-aB3dE9x", 99)]
    {
        std::fs::write(at(name), "precious").unwrap();
        aged(name, hours);
    }
    folder(".ckpt-f0LDer", [1, 30]);
    std::fs::create_dir_all(at(".ckpt-as1DeX/replaced")).unwrap();
    aged(".ckpt-as1DeX", 99);
    let held = std::fs::File::create(at(".ckpt-H3ldBy")).unwrap();
    held.lock().unwrap();
    aged(".ckpt-H3ldBy", 99);
    let before = names(place.path());
    std::fs::write(at(".ckpt-0lDf1L"), "half").unwrap();
    aged(".ckpt-0lDf1L", 25);
    folder(".ckpt-0lDd1R", [25, 30]);
    staged::write(&at("zzz"), b"x", false).unwrap();
    assert_eq!(names(place.path()), [&before[..], &["zzz".into()]].concat());
}

/// Where locks are not known from machine to machine, another one may be writing what nobody seems to hold.
#[test]
fn what_another_machine_may_be_writing_stays_for_a_day() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    std::fs::write(at(".ckpt-fileAAAAAAAA.part"), "half").unwrap();
    // No file has come into the folder for days, and one in it is written to.
    std::fs::create_dir(at(".ckpt-dirAAAAAAAAA.part")).unwrap();
    std::fs::write(at(".ckpt-dirAAAAAAAAA.part/weights"), "half").unwrap();
    age(&[at(".ckpt-dirAAAAAAAAA.part")]);
    std::fs::create_dir_all(at(".ckpt-asideAAAAAAA.part/model")).unwrap();
    let before = names(place.path());
    staged::write(&at("zzz"), b"x", false).unwrap();
    assert_eq!(names(place.path()), [&before[..], &["zzz".into()]].concat());
    age(&["fileAAAAAAAA.part", "dirAAAAAAAAA.part/weights", "dirAAAAAAAAA.part", "asideAAAAAAA.part"]
        .map(|name| at(&format!(".ckpt-{name}"))));
    staged::write(&at("zzz"), b"x", true).unwrap();
    assert_eq!(names(place.path()), ["model", "zzz"]);
}

/// A folder that was moved aside when the process was killed goes back, unless its successor is there.
#[test]
fn a_folder_that_was_being_replaced_is_not_lost() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let aside = || {
        std::fs::create_dir_all(at(".ckpt-asideAAAAAAA.part/model")).unwrap();
        std::fs::write(at(".ckpt-asideAAAAAAA.part/model/weights"), "old").unwrap();
        age(&[at(".ckpt-asideAAAAAAA.part")]);
    };
    aside();
    staged::write(&at("other"), b"x", true).unwrap();
    assert_eq!(names(place.path()), ["model", "other"]);
    assert_eq!(std::fs::read(at("model/weights")).unwrap(), b"old");
    std::fs::write(at("model/weights"), "new").unwrap();
    aside();
    staged::write(&at("other"), b"x", true).unwrap();
    assert_eq!(names(place.path()), ["model", "other"]);
    assert_eq!(std::fs::read(at("model/weights")).unwrap(), b"new");
}

#[test]
fn modes_are_those_of_the_umask_or_of_what_is_replaced() {
    for (umask, file, folder) in [("022", 0o644, 0o755), ("077", 0o600, 0o700), ("002", 0o664, 0o775)] {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        assert!(child("child_writes", place.path(), umask).wait().unwrap().success());
        assert_eq!((mode(&at("file")), mode(&at("folder"))), (file, folder), "{umask}");
        std::fs::set_permissions(at("file"), PermissionsExt::from_mode(0o606)).unwrap();
        std::fs::set_permissions(at("folder"), PermissionsExt::from_mode(0o707)).unwrap();
        std::fs::write(at("folder/old"), "old").unwrap();
        assert!(child("child_writes", place.path(), umask).wait().unwrap().success());
        assert_eq!((mode(&at("file")), mode(&at("folder"))), (0o606, 0o707), "{umask}");
        assert!(names(&at("folder")).is_empty() && names(place.path()).len() == 2);
    }
}

#[test]
fn what_is_dropped_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("file");
    std::fs::write(&path, "old").unwrap();
    let mut file = StagedFile::begin(&path, true).unwrap();
    file.write_all(b"new").unwrap();
    drop(file);
    drop(StagedFolder::create(&place.path().join("folder"), 0, false, |_| true).unwrap());
    assert_eq!(names(place.path()), ["file"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn what_is_not_replaced_is_told() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    std::fs::write(at("file"), "precious").unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    std::fs::write(at("folder/thesis.tex"), "precious").unwrap();
    symlink("nowhere", at("lost")).unwrap();
    symlink("file", at("link")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let write = |name: &str, force| staged::write(&at(name), b"new", force);
    let by = |result: staged::Result<()>| match result {
        Err(Error::Occupied { by, .. }) => by,
        other => panic!("{other:?}"),
    };
    assert!(matches!(write("file", false), Err(Error::Exists { path }) if path == at("file")));
    assert!(matches!(write("link", false), Err(Error::Exists { path }) if path == at("link")));
    assert_eq!(by(write("folder", true)), Occupant::Folder);
    assert_eq!(by(write("lost", true)), Occupant::LostLink);
    assert_eq!(by(staged::may_write(&at("pipe"), true)), Occupant::Stream);
    staged::may_write_or_feed(&at("pipe"), false).unwrap();
    assert!(matches!(write("none/file", true), Err(Error::NoFolder { .. })));
    assert!(matches!(staged::may_write(&at("none/file"), true), Err(Error::NoFolder { .. })));
    assert!(matches!(staged::write(Path::new("-"), b"", true), Err(Error::Dash)));
    assert!(matches!(StagedFile::create(&at("large"), 1 << 60, true), Err(Error::NoSpace { .. })));
    let folder = |name: &str, force| {
        StagedFolder::create(&at(name), 0, force, |name| name.ends_with(".gguf")).map(drop)
    };
    assert!(matches!(folder("folder", false), Err(Error::Exists { .. })));
    let Err(Error::Foreign { entry, .. }) = folder("folder", true) else { panic!("replaced") };
    assert_eq!(entry, "thesis.tex");
    assert_eq!(by(folder("file", true)), Occupant::File);
    assert_eq!(names(place.path()), ["file", "folder", "link", "lost", "pipe"]);
    assert_eq!(std::fs::read(at("file")).unwrap(), b"precious");

    let reader = std::thread::spawn({
        let pipe = at("pipe");
        move || std::fs::read(pipe).unwrap()
    });
    write("pipe", false).unwrap();
    assert_eq!(reader.join().unwrap(), b"new");
    write("link", true).unwrap();
    assert!(at("link").is_symlink() && std::fs::read(at("file")).unwrap() == b"new");
}

/// What `force` replaces is looked at when it is replaced: until then, hours may have passed.
#[test]
fn what_came_into_a_folder_meanwhile_is_not_lost() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("model.gguf"), "old").unwrap();
    let ours = |name: &str| name.ends_with(".gguf");
    let staged = StagedFolder::create(&path, 0, true, ours).unwrap();
    std::fs::write(path.join("thesis.tex"), "precious").unwrap();
    let Err(Error::Foreign { entry, .. }) = staged.commit(&[]) else { panic!("replaced") };
    assert_eq!(entry, "thesis.tex");
    // One that was made meanwhile was never looked at before.
    let other = place.path().join("other");
    let staged = StagedFolder::create(&other, 0, true, ours).unwrap();
    std::fs::create_dir_all(other.join("notes")).unwrap();
    assert!(matches!(staged.commit(&[]), Err(Error::Foreign { .. })));
    assert_eq!(names(place.path()), ["model", "other"]);
    assert_eq!(names(&path), ["model.gguf", "thesis.tex"]);
    std::fs::remove_file(path.join("thesis.tex")).unwrap();
    StagedFolder::create(&path, 0, true, ours).unwrap().commit(&[]).unwrap();
    assert!(names(&path).is_empty());
}

#[test]
fn a_folder_whose_successor_is_gone_stays() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("weights"), "old").unwrap();
    let staged = StagedFolder::create(&path, 0, true, |_| true).unwrap();
    let temporary = names(place.path()).into_iter().find(|name| name.ends_with(".part")).unwrap();
    std::fs::remove_dir(place.path().join(temporary)).unwrap();
    assert!(matches!(staged.commit(&[]), Err(Error::Write { .. })));
    assert_eq!(names(place.path()), ["model"]);
    assert_eq!(std::fs::read(path.join("weights")).unwrap(), b"old");
}

/// As many files open as the process may have.
#[test]
fn child_without_files() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let mut open = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        open.push(file);
    }
    let folder = StagedFolder::create(&place.join("folder"), 0, false, |_| true);
    assert!(matches!(folder, Err(Error::Write { .. })), "{folder:?}");
}

/// Nobody else would see that it is in use.
#[test]
fn a_folder_that_cannot_be_locked_is_not_begun() {
    let place = tempfile::tempdir().unwrap();
    assert!(child("child_without_files", place.path(), "022; ulimit -n 64").wait().unwrap().success());
    assert!(names(place.path()).is_empty());
}

/// Who finishes second without `force` does not replace what the first has made.
#[test]
fn a_file_made_meanwhile_stays() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("file");
    let mut slow = StagedFile::begin(&path, false).unwrap();
    slow.write_all(b"second").unwrap();
    staged::write(&path, b"first", false).unwrap();
    assert!(matches!(slow.commit(), Err(Error::Exists { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"first");
    assert_eq!(names(place.path()), ["file"]);
}

/// Rights of an owner are given by that owner.
#[test]
fn a_file_that_gets_another_owner_loses_the_rights_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for (owner, mode) in [(None, 0o6755), (Some(1), 0o755)] {
        std::fs::write(&path, b"old").unwrap();
        // Only root gives files away.
        if owner.is_some() && std::os::unix::fs::chown(&path, owner, None).is_err() {
            return;
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o6755)).unwrap();
        staged::write(&path, b"new", true).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, mode);
    }
}
