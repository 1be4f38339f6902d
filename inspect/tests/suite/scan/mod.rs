//! The scanner on files assembled opcode by opcode, on every fixture, on mutations, and compared with other scanners.

mod files;

use std::sync::LazyLock;

use ckpt_inspect::scan::{Options, Pattern, Rule, Scan, Severity, files as files_below, scan};
use ckpt_kit::fixtures::{data, root};
use ckpt_kit::npy::npy;
use ckpt_kit::pickle::{bytes8, global, pickle, short_text};
use ckpt_kit::tar::tar;
use ckpt_kit::zip::{entry, zip};
use ckpt_kit::{peers, safetensors};
use proptest::prelude::*;

fn scan_bytes(name: &str, bytes: &[u8]) -> Option<Scan> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    scan(&path, &Options::default()).ok()
}

fn find(name: &str) -> Scan {
    let file = files::all().into_iter().find(|f| f.name == name).unwrap();
    scan_bytes(name, &file.bytes).unwrap()
}

fn rules(scan: &Scan) -> Vec<Rule> {
    scan.findings.iter().map(|f| f.rule).collect()
}

#[test]
fn every_malicious_file_is_found_and_no_benign_one() {
    let files = files::all();
    assert!(files.len() >= 100 && files.iter().filter(|f| !f.malicious).count() >= 20);
    let mut wrong = Vec::new();
    for file in &files {
        let scan = scan_bytes(file.name, &file.bytes);
        let severity = scan.as_ref().and_then(Scan::severity);
        let suspect = severity >= Some(Severity::Unknown);
        if suspect != file.malicious || scan.is_none() {
            wrong.push(format!("{} ({}): {:?}", file.name, file.about, scan.map(|s| s.findings)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_runs_code_is_dangerous_wherever_it_is() {
    for file in files::all().iter().filter(|f| f.malicious) {
        let runs = file.bytes.windows(12).any(|w| w == b"posix\nsystem" || w == b"os\nsystem\n(S");
        // If the size of an array is unknown, nothing after it can be scanned.
        let hidden = matches!(file.name, "array-of-no-size.pkl" | "array-resized.pkl");
        let plain = !hidden && !file.name.contains("safetensors") && !file.name.contains("gz");
        if runs && plain {
            let scan = scan_bytes(file.name, &file.bytes).unwrap();
            assert_eq!(scan.severity(), Some(Severity::Dangerous), "{}: {:?}", file.name, scan.findings);
        }
    }
    for file in files::dangerous() {
        let severity = scan_bytes(file.name, &file.bytes).unwrap().severity();
        assert_eq!(severity, Some(Severity::Dangerous), "{}", file.name);
    }
    for name in ["attribute.h5", "objects.h5", "nothing-first.model", "hyperparams.yaml", "inference.json"] {
        assert_eq!(find(name).severity(), Some(Severity::Dangerous), "{name}");
    }
    for name in ["compressed.pkl.gz", "compressed.joblib", "pickled.safetensors", "zip-in-zip-in-zip.zip"] {
        assert_eq!(find(name).severity(), Some(Severity::Dangerous), "{name}");
    }
}

#[test]
fn findings_say_what_where_and_how_it_is_called() {
    let scan = find("torch.pt");
    let finding = &scan.findings[0];
    assert_eq!((finding.rule, finding.severity), (Rule::DangerousImport, Severity::Dangerous));
    assert_eq!(finding.member, "m/data.pkl");
    assert_eq!(finding.offset, Some(2));
    assert_eq!(finding.global.as_deref(), Some("posix.system"));
    assert!(finding.message.contains("posix.system('id')"), "{}", finding.message);

    let scan = find("getattr-chain.pkl");
    let computed = scan.findings.iter().find(|f| f.rule == Rule::ComputedCall).unwrap();
    assert!(
        computed.message.contains("__builtin__.getattr(__builtin__.__import__('os'), 'system')('id')"),
        "{}",
        computed.message
    );
    let scan = find("nested-zip.pkl");
    assert!(
        scan.findings.iter().any(|f| f.member.starts_with("bytes at ") && f.member.ends_with("!m/data.pkl"))
    );
    assert_eq!(find("zip-in-zip-in-zip.zip").findings[0].member, "a.zip!b.bin!m/data.pkl");
}

#[test]
fn every_trick_has_its_rule() {
    for (name, rule) in [
        ("extension.pkl", Rule::ExtensionCode),
        ("changed-class.pkl", Rule::ChangedClass),
        ("stray-proto.pkl", Rule::StrayProtocol),
        ("invalid-opcode.pkl", Rule::BrokenPickle),
        ("not-a-name.pkl", Rule::BrokenPickle),
        ("after-junk.pkl", Rule::BytesAfterPickle),
        ("laughs.pkl", Rule::Expansion),
        ("unknown.pkl", Rule::UnknownImport),
        ("bytes.pkl", Rule::HiddenPickle),
        ("encrypted-flag.pt", Rule::EncryptedEntry),
        ("bad-crc.pt", Rule::ChecksumMismatch),
        ("tensor-item.pt", Rule::ChangedTensor),
        ("array-interface.pkl", Rule::ForgedArray),
        ("forged-dtype.pkl", Rule::ForgedArray),
        ("endless.pkl", Rule::Expansion),
        ("holes.tar", Rule::OpaqueContent),
        ("package-case.pt", Rule::CustomCode),
        ("short-storage.pt", Rule::ShortStorage),
        ("twice-evil-last.pt", Rule::DuplicateEntry),
        ("two-folders.pt", Rule::SeveralPickles),
        ("hidden-entry.pt", Rule::HiddenEntry),
        ("names-disagree.pt", Rule::HeadersDisagree),
        ("junk-then-zip.pt", Rule::PrependedBytes),
        ("zip-then-pickle.pt", Rule::AppendedBytes),
        ("traversal.zip", Rule::PathOutside),
        ("link.zip", Rule::Link),
        ("library.pt", Rule::NativeCode),
        ("script-saves.pt", Rule::DangerousScript),
        ("outside.tar", Rule::PathOutside),
        ("sevenzip.pt", Rule::OpaqueContent),
        ("handed-factory.pkl", Rule::DangerousImport),
        ("array-above.pkl", Rule::PathOutside),
        ("protocol-9.pkl", Rule::StrayProtocol),
        ("legacy-junk.pt", Rule::AppendedBytes),
        ("overlap.safetensors", Rule::MalformedTensors),
        ("template.gguf", Rule::DangerousTemplate),
        ("comment.pt", Rule::SeveralDirectories),
        ("script-path.pt", Rule::DangerousImport),
        ("list-changed.pkl", Rule::OpaqueContent),
        ("torn-frame.pkl", Rule::TornFrame),
        ("torn-frame.pt", Rule::DangerousImport),
        ("wide.pt", Rule::SeveralDirectories),
        ("uncounted.npz", Rule::SeveralDirectories),
        ("lambda.keras", Rule::CustomCode),
        ("alias.yaml", Rule::CustomCode),
        ("tokenizer_config.json", Rule::DangerousTemplate),
        ("folder-of-data.pt", Rule::ReadersDisagree),
        ("size-of-all.pt", Rule::ReadersDisagree),
        ("compressed-links.h5", Rule::OpaqueContent),
        ("old.dump", Rule::DangerousImport),
        ("hyperparams.yaml", Rule::CustomCode),
        ("MLmodel", Rule::CustomCode),
        ("sizes.pt2", Rule::CustomCode),
        ("agent.zip", Rule::DangerousImport),
        ("continued.model", Rule::DangerousImport),
        ("status-changed.pkl", Rule::ChangedClass),
        ("gotten-changed.pkl", Rule::ChangedClass),
        ("factorial.pkl", Rule::Expansion),
        ("mesh-called.pkl", Rule::UnknownImport),
        ("lambda-heap.h5", Rule::CustomCode),
        ("cut-off.h5", Rule::OpaqueContent),
        ("unicode.keras", Rule::HeadersDisagree),
        ("two.tar", Rule::AppendedBytes),
        ("pipeline-itself.yaml", Rule::OpaqueContent),
        ("classes.jar", Rule::NativeCode),
        ("cut-text.pt", Rule::BrokenPickle),
        ("linked-to-nothing.tar", Rule::Link),
        ("library-as-storage.pt2", Rule::NativeCode),
        ("tar-as-storage.mar", Rule::DangerousImport),
        ("yaml-as-storage.nemo", Rule::CustomCode),
        ("template-as-storage.zip", Rule::DangerousTemplate),
        ("followed-change.zip", Rule::ChangedClass),
        ("compiled.pt2", Rule::NativeCode),
        ("compiler.pt2", Rule::NativeCode),
        ("native.jar", Rule::NativeCode),
        ("source-array.npz", Rule::DangerousImport),
        ("script-class.pt", Rule::DangerousScript),
        ("picked-changed.pkl", Rule::ChangedClass),
        ("numpy-picked-changed.pkl", Rule::ChangedClass),
        ("rebuilt-computed.pkl", Rule::ChangedClass),
        ("reduce.pkl", Rule::UnknownImport),
        ("addresses.pkl", Rule::Expansion),
        ("above-compressed.pkl", Rule::PathOutside),
    ] {
        let scan = find(name);
        assert!(rules(&scan).contains(&rule), "{name}: {:?}", scan.findings);
    }
}

/// Vocabularies, trees and indices are larger than what is parsed as a whole, and have keys that mean other things.
#[test]
fn large_json_is_searched_by_its_keys() {
    let tokens: Vec<String> = (0..200_000)
        .map(|i| format!(r#""type{i}": {{"type": {i}, "template": "word", "target": [{i}]}}"#))
        .collect();
    let plain = format!(r#"{{"vocab": {{{}}}, "type": "BPE", "last": 1}}"#, tokens.join(","));
    assert!(plain.len() > 4 << 20);
    let scan = scan_bytes("vocabulary.json", plain.as_bytes()).unwrap();
    assert_eq!(scan.findings, []);
    for (evil, rule) in [
        (r#""_target_": "os.system""#, Rule::CustomCode),
        (r#""__module__": "os", "__class__": "system""#, Rule::CustomCode),
        (r#""a": {"auto_map": {"AutoModel": "mine.Model"}}"#, Rule::CustomCode),
        (r#""a": [{"expr_str": "eval('1')"}]"#, Rule::CustomCode),
        (r#""chat_template": "{{ x.__class__ }}""#, Rule::DangerousTemplate),
        (r#""config": {"class_name": "Lambda", "config": {}}"#, Rule::CustomCode),
        (r#""a": "$__import__('os').system('id')""#, Rule::CustomCode),
    ] {
        for large in [plain.replace(r#""last": 1"#, evil), format!("{{{}{evil}}}", " ".repeat(4 << 20))] {
            let scan = scan_bytes("vocabulary.json", large.as_bytes()).unwrap();
            assert!(rules(&scan).contains(&rule), "{evil}: {:?}", scan.findings);
        }
    }
    let many = format!("[{}1]", r#"{"_target_": "a"},"#.repeat(300_000));
    let scan = scan_bytes("many.json", many.as_bytes()).unwrap();
    assert!(rules(&scan).contains(&Rule::OpaqueContent), "{:?}", scan.findings);
}

#[test]
fn bytes_that_are_neither_text_nor_a_whole_pickle_are_not_passed_over() {
    for name in ["a.pkl", "a.bin", "a.pt"] {
        for bytes in [&b"\xff\xb2\x9d\xc0"[..], b"T\xff\xff\xff\xff0cposix\nsystem\n", b"caf\xe9", b"\xb7"] {
            let scan = scan_bytes(name, bytes);
            assert!(scan.is_none_or(|scan| scan.severity() == Some(Severity::Unknown)), "{bytes:?}");
        }
        for text in
            ["vocab\n", "Not a model", "(see the notes)\n", "Ünïcode\n", "Model of the year", "{\"a\": 1}"]
        {
            let scan = scan_bytes(name, text.as_bytes()).unwrap();
            assert_eq!((scan.severity(), &*scan.format), (None, "not a pickle"), "{text}");
        }
    }
    let whole = b"(dp0\nVa\np1\n(lp2\nI1\naI2\naF1.5\nasVb\np3\nS'xx'\np4\ns.";
    assert_eq!(scan_bytes("a.pkl", whole).unwrap().severity(), None);
    for cut in 1..whole.len() {
        let scan = scan_bytes("a.pkl", &whole[..cut]).unwrap();
        assert_eq!(scan.severity(), Some(Severity::Unknown), "{cut}");
    }
    let member = tar(&[("inner.zip", b"\x80\xff\0\x01", None), ("b.pkl", b"\xff\xb2\x9d", None)]);
    assert!(scan_bytes("a.tar", &member).unwrap().unreadable.is_some());
}

#[cfg(unix)]
#[test]
fn what_cannot_be_read_in_a_folder_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let _sockets =
        ["model.pt", "a.sock"].map(|name| std::os::unix::net::UnixListener::bind(path(name)).unwrap());
    std::os::unix::fs::symlink("/dev/null", path("weights.bin")).unwrap();
    let files = ckpt_inspect::scan::Files::below(folder.path()).unwrap();
    assert_eq!(files.likely, [path("model.pt"), path("weights.bin")]);
    assert_eq!(files.others, [path("a.sock")]);
    for file in files.likely {
        assert!(scan(&file, &Options::default()).is_err(), "{}", file.display());
    }
}

#[test]
fn the_source_by_which_a_repository_generates_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for (name, told) in [("custom_generate", true), ("other", false)] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        let source = folder.path().join(name).join("generate.py");
        std::fs::write(&source, "def generate(model): ...\n").unwrap();
        let found = scan(&source, &Options::default()).is_ok_and(|scan| rules(&scan) == [Rule::CustomCode]);
        assert_eq!(found, told, "{name}");
    }
}

/// What joblib wrote before 0.10: a pickle names the files with its arrays, which may be pickles.
#[test]
fn files_that_a_pickle_has_joblib_unpickle_are_scanned_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pkl");
    let named = files::all().into_iter().find(|file| file.name == "array-beside.pkl").unwrap();
    std::fs::write(&path, &named.bytes).unwrap();
    assert_eq!(scan(&path, &Options::default()).unwrap().severity(), None);
    let evil = files::all().into_iter().find(|file| file.name == "global-p2.pkl").unwrap();
    std::fs::write(folder.path().join("a_01.npy"), &evil.bytes).unwrap();
    let scan = scan(&path, &Options::default()).unwrap();
    let found = &scan.findings[0];
    assert_eq!((found.severity, &*found.member), (Severity::Dangerous, "a_01.npy"));
}

#[test]
fn archives_of_pytorch_whose_object_is_none_are_not_fully_scanned() {
    let with = |object: Option<&[u8]>| {
        let mut entries = vec![entry("m/byteorder", *b"little"), entry("m/data/0", [0; 8])];
        entries.extend(object.map(|object| entry("m/data.pkl", object)));
        scan_bytes("model.pt", &zip(&entries)).unwrap().unreadable
    };
    for object in [None, Some(&b"a text\n"[..]), Some(b"")] {
        assert!(with(object).is_some(), "{object:?}");
    }
    assert_eq!(with(Some(b"\x80\x02}.")), None);
}

/// In a folder, too, where files of every kind are.
#[test]
fn pickles_of_any_name_in_a_folder_are_scanned_and_texts_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    for name in ["global-p0.pkl", "followed", "continued.model", "compressed.joblib"] {
        let file = files::all().into_iter().find(|file| file.name == name).unwrap();
        write(name.split('.').next().unwrap(), &file.bytes);
    }
    write("words", b"cat\ndog\neel\n");
    write("LICENSE", b"copyright\nsomeone\n");
    let found = ckpt_inspect::scan::Files::below(folder.path()).unwrap();
    let names = |paths: &[std::path::PathBuf]| -> Vec<String> {
        paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_string()).collect()
    };
    assert_eq!(names(&found.likely), ["compressed", "continued", "followed", "global-p0"]);
    assert_eq!(names(&found.others), ["LICENSE", "words"]);
    for path in found.likely {
        assert_eq!(
            scan(&path, &Options::default()).unwrap().severity(),
            Some(Severity::Dangerous),
            "{path:?}"
        );
    }
}

#[test]
fn no_number_of_harmless_findings_hides_a_dangerous_one() {
    // Each byte string that begins like a pickle is a note.
    let harmless = pickle(2, &[&global("collections", "OrderedDict")[..], b")R"].concat());
    let notes = pickle(3, &[b"(", &*bytes8(&harmless).repeat(4000), b"l"].concat());
    let evil = pickle(2, &[&global("posix", "system")[..], b"U\x02id\x85R"].concat());
    let entries = [entry("m/a.pkl", notes), entry("m/data.pkl", evil)];
    let scan = scan_bytes("many.pt", &zip(&entries)).unwrap();
    assert_eq!(scan.severity(), Some(Severity::Dangerous));
    assert_eq!(scan.findings[0].global.as_deref(), Some("posix.system"));
    assert!(scan.findings.len() <= 2001, "{}", scan.findings.len());
    assert_eq!(scan.findings.iter().map(|f| f.count).sum::<u64>(), 4001);
}

#[test]
fn what_the_user_vouches_for_is_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.pkl");
    std::fs::write(&path, &files::all().iter().find(|f| f.name == "unknown.pkl").unwrap().bytes).unwrap();
    let allow = |pattern: &str| {
        let mut options = Options::default();
        options.allow.push(Pattern::new(pattern).unwrap());
        options
    };
    assert_eq!(scan(&path, &allow("totally_fine.*")).unwrap().severity(), None);
    assert_eq!(scan(&path, &allow("totally_fine.Config")).unwrap().severity(), None);
    assert_eq!(scan(&path, &allow("totally_fine.Con")).unwrap().severity(), Some(Severity::Unknown));
    // Names that lead through what a module imports are admitted only when they are spelt out.
    let dotted = |name: &str| pickle(4, &[short_text("mine.config"), short_text(name), vec![0x93]].concat());
    for name in ["os.system", "Config.__init__", "os", "system", "getattr"] {
        std::fs::write(&path, dotted(name)).unwrap();
        assert!(scan(&path, &allow("mine.config.*")).unwrap().severity().is_some(), "{name}");
        assert_eq!(scan(&path, &allow(&format!("mine.config.{name}"))).unwrap().severity(), None, "{name}");
    }
    for name in ["Config", "_Config", "relu", "make_layers"] {
        std::fs::write(&path, dotted(name)).unwrap();
        assert_eq!(scan(&path, &allow("mine.*")).unwrap().severity(), None, "{name}");
    }
    // Nor are those that are called like functions which reach out, or are dangerous by their whole names.
    for name in [
        "run",
        "check_call",
        "import_module",
        "urlopen",
        "rmtree",
        "loads",
        "attrgetter",
        "Popen",
        "safe_load",
    ] {
        std::fs::write(&path, dotted(name)).unwrap();
        assert!(scan(&path, &allow("mine.*")).unwrap().severity().is_some(), "{name}");
        assert_eq!(scan(&path, &allow(&format!("mine.config.{name}"))).unwrap().severity(), None, "{name}");
    }
    let of =
        |module: &str, name: &str| pickle(4, &[short_text(module), short_text(name), vec![0x93]].concat());
    for (module, name) in [
        ("numpy", "DataSource"),
        ("numpy.testing._private.utils", "runstring"),
        ("numpy.testing._private.utils", "Ordinary"),
        ("numpy", "vectorize"),
    ] {
        std::fs::write(&path, of(module, name)).unwrap();
        let severity = scan(&path, &allow("numpy.*")).unwrap().severity();
        assert_eq!(severity, Some(Severity::Dangerous), "{module}.{name}");
    }
    for nonsense in ["*", "os", "a.*.b", ""] {
        assert!(Pattern::new(nonsense).is_err(), "{nonsense}");
    }
}

#[test]
fn no_fixture_but_the_malicious_one_is_suspected() {
    let mut count = 0;
    for path in files_below(&root().join("tests/fixtures")).unwrap() {
        let scan = scan(&path, &Options::default()).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        count += 1;
        if name == "evil.pt" {
            assert_eq!(scan.severity(), Some(Severity::Dangerous));
            assert_eq!(scan.findings[0].global.as_deref(), Some("posix.system"));
            continue;
        }
        assert!(scan.severity() < Some(Severity::Unknown), "{name}: {:?}", scan.findings);
        let damaged = matches!(name, "truncated.pt" | "bitflip.pt");
        assert_eq!(scan.unreadable.is_some(), damaged, "{name}: {:?}", scan.unreadable);
    }
    assert!(count >= 35, "{count}");
    // Classes of a script are on no list, and are reported as unknown; the rest of these files is harmless.
    for name in [
        "special.pt",
        "arrays-p2.pkl",
        "arrays-p5.pkl",
        "pickled-p2.pkl",
        "pickled-p4.pkl",
        "every_type.gguf",
    ] {
        let path = data("inspect", name);
        let scan = scan(&path, &Options::default()).unwrap();
        assert!(scan.severity() < Some(Severity::Unknown), "{name}: {:?}", scan.findings);
    }
    let objects = scan(&data("inspect", "objects-p5.pt"), &Options::default());
    for finding in objects.unwrap().findings {
        assert!(finding.global.is_some_and(|g| g.starts_with("__main__.")));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every file of tensors is tried as a pickle, and none is one by chance.
    #[test]
    fn files_of_tensors_are_no_pickles_by_chance(
        data in prop::collection::vec(any::<u8>(), 8..2000),
        names in prop::collection::vec("[a-zA-Z0-9_.]{1,40}", 1..8),
        key in "[a-z.]{1,30}",
        value in "[ -~\n]{0,300}",
    ) {
        let mut entries: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(i, n)| format!(r#""{n}{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1))
            .collect();
        entries.push(format!(
            r#""rest":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}"#,
            data.len() - names.len(),
            names.len(),
            data.len()
        ));
        let tensors = safetensors::raw(&format!("{{{}}}", entries.join(",")), &data);
        for (name, bytes) in [("a.safetensors", tensors), ("a.gguf", files::gguf(&key, &value))] {
            let scan = scan_bytes(name, &bytes).unwrap();
            prop_assert!(scan.severity() < Some(Severity::Unknown), "{name}: {:?}", scan.findings);
        }
    }
}

/// Outside of a scan, too, no reading is preferred without a word.
#[test]
fn archives_of_which_readers_find_different_entries_are_damaged() {
    let files = files::all();
    for name in ["wide.npz", "wide.pt", "uncounted.npz"] {
        let file = files.iter().find(|f| f.name == name).unwrap();
        let checkpoint = ckpt_inspect::open_bytes(name, file.bytes.clone()).unwrap();
        let damage = checkpoint.damage.as_ref().unwrap();
        assert!(damage.is(ckpt_inspect::DamageKind::Duplicate), "{name}: {damage}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_change_of_a_scanned_file_returns(
        file in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..10),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        static FILES: LazyLock<Vec<files::File>> = LazyLock::new(files::all);
        let file = file.get(&FILES);
        let mut bytes = file.bytes.clone();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        scan_bytes(file.name, &bytes);
    }
}

/// What picklescan and fickling say about the set, and the table of docs/scan-table.md. Needs a Python that has both, named
/// by CKPT_PEERS_PYTHON; without one the test says that it skips, or fails where CKPT_REQUIRE_PEERS=1.
#[test]
fn whatever_other_scanners_find_is_found() {
    let Some(python) = peers::python(&["picklescan", "fickling"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let files = files::all();
    for file in &files {
        std::fs::write(folder.path().join(file.name), &file.bytes).unwrap();
    }
    let peers = peers::json(&python.script("inspect", "scan.py", &[folder.path()]));
    let mut table =
        String::from("| file | what it is | ckpt | picklescan | fickling |\n|---|---|---|---|---|\n");
    for file in &files {
        let scan = scan(&folder.path().join(file.name), &Options::default()).unwrap();
        let ours = scan.severity().filter(|s| *s > Severity::Note).map_or("clean", Severity::name);
        let [picklescan, fickling] =
            ["picklescan", "fickling"].map(|p| peers["verdicts"][file.name][p].as_str().unwrap());
        let caught = |verdict: &str| !matches!(verdict, "clean" | "no answer");
        if file.malicious && (caught(picklescan) || caught(fickling)) {
            assert!(caught(ours), "{} is missed: picklescan {picklescan}, fickling {fickling}", file.name);
        }
        let about = file.about.replace('|', "\\|");
        let kind = if file.malicious { "" } else { "benign: " };
        table += &format!("| `{}` | {kind}{about} | {ours} | {picklescan} | {fickling} |\n", file.name);
    }
    let page = std::fs::read_to_string(root().join("docs/scan-table.md")).unwrap();
    let named = |name: &str| format!("{name} {}", peers["versions"][name].as_str().unwrap());
    // The table says nothing about other versions.
    let measured = ["picklescan", "fickling"].iter().all(|name| page.contains(&named(name)));
    if measured && !page.contains(&table) {
        let made = root().join("target/scan-table.md");
        std::fs::write(&made, &table).unwrap();
        panic!("docs/scan-table.md does not hold the table that was measured: it is in {}", made.display());
    }
}

/// What `np.save` writes of texts of NumPy's StringDType: a pickle, whose only call beside the usual ones makes the type.
#[test]
fn texts_of_any_length_are_pickled_and_nothing_is_found_in_them() {
    let make = global("numpy._core._internal", "_convert_to_stringdtype_kwargs");
    let texts = pickle(
        2,
        &[
            &global("numpy._core.multiarray", "_reconstruct")[..],
            &global("numpy", "ndarray"),
            b"K\0\x85U\x01b\x87R(K\x01K\x01\x85",
            &make,
            b"K\x01\x85R\x89](U\x01aetb",
        ]
        .concat(),
    );
    let unknown = pickle(2, &[&global("elsewhere", "thing")[..], b")R"].concat());
    let numbers = vec![0x54; 8];
    for (descr, elements, severity) in [
        ("'|O'", &texts, None),
        ("'T'", &texts, None),
        ("[('a', 'T')]", &texts, None),
        ("'=T'", &unknown, Some(Severity::Unknown)),
        ("[('a', 'T')]", &unknown, Some(Severity::Unknown)),
        ("[('a', '<i4'), ('b', ('=T', (2,)))]", &unknown, Some(Severity::Unknown)),
        ("(('T', (2,)), (3,))", &unknown, Some(Severity::Unknown)),
        // A name says nothing of its type.
        ("[('T', '<i4'), ('Offset', '<i4')]", &numbers, None),
    ] {
        let scan = scan_bytes("a.npy", &npy(descr, false, "(1,)", elements)).unwrap();
        assert_eq!(scan.severity(), severity, "{descr}: {:?}", scan.findings);
    }
}
