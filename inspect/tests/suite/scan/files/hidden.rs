//! Code where only some readers look: below keys that mean something else, behind aliases and equal keys, at the end of archives
//! and behind headers that are none; and benign files that look like it.

use ckpt_kit::pickle::global;
use ckpt_kit::tar::tar;
use ckpt_kit::zip::{Entry, entry, zip};

use super::{File, bad, bare, evil, good, p2};

const MADE: &str = "${oc.create:{_target_: os.system, _args_: [id]}}";
const LAMBDA: &str = r#"{"module": "keras.layers", "class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"value": "x"}}}}"#;
const LONG: &str = "                                        ";

/// The extra field that gives an entry called `name` another name in Unicode (APPNOTE 4.6.9).
fn in_unicode(name: &str, other: &str) -> Vec<u8> {
    let crc = crc32fast::hash(name.as_bytes()).to_le_bytes();
    let field = [&[1][..], &crc, other.as_bytes()].concat();
    [&b"\x75\x70"[..], &(field.len() as u16).to_le_bytes(), &field].concat()
}

/// A zip behind four bytes, of which Python finds the first entry, and no reader the second.
fn behind_bytes() -> Vec<u8> {
    let mut archive = zip(&[entry("a.pkl", evil()), entry("b.txt", *b"x")]);
    let second = archive.windows(4).rposition(|part| part == b"PK\x03\x04").unwrap();
    archive[second] = b'Q';
    [&[0; 4][..], &archive].concat()
}

/// A zip whose first bytes are gone, as its offsets say.
fn without_its_beginning() -> Vec<u8> {
    let mut archive = zip(&[entry("long-enough-to-be-cut.txt", vec![b'x'; 100]), entry("a.pkl", evil())]);
    archive.splice(0..64, []);
    archive
}

pub(super) fn hidden() -> Vec<File> {
    let mut files = configured();
    files.extend(contained());
    files
}

fn configured() -> Vec<File> {
    let target = r#"{"_target_": "os.system", "_args_": ["id"]}"#;
    let below = |key: &str| format!(r#"{{"structure": 1, "{key}": {{"a": {target}}}}}"#);
    vec![
        bad("kernels-below.json", "_target_ below a key for kernels", below("kernel_mapping")),
        bad("attention-below.json", "_target_ below a key for attention", below("attn_implementation")),
        bad("template-below.json", "_target_ below a key for templates", below("chat_template")),
        bad("types-below.json", "_target_ below the types of a router", below("types")),
        bad("lambda-below.keras", "a Lambda layer below a key for kernels", zip(&[
            entry("config.json", format!(r#"{{"module": "keras.layers", "class_name": "Dense", "config": {{"kernel_mapping": {LAMBDA}}}}}"#)),
        ])),
        bad("made-in-list.yaml", "a mapping that OmegaConf makes of a text in a list", format!("x:\n  - \"{MADE}\"\n")),
        bad("made-by-name.yaml", "the same by a resolver whose name is put together", MADE.replace("oc.create", "${a}").replace("${${a}", "a: oc.create\nx: \"${${a}") + "\"\n"),
        bad("made-in-template.yaml", "the same below a key for templates", format!("chat_template: \"{MADE}\"\n")),
        bad("class-twice.yaml", "a class that is named twice, of which Python takes the last", *b"class_path: a.b\nclass_path: os.system\n"),
        bad("class-twice-first.yaml", "the same, of which others take the first", *b"class_path: os.system\nclass_path: a.b\n"),
        bad("pipeline-twice.yaml", "a pipeline of pyannote that is described twice", *b"pipeline: {name: pyannote.audio.X, params: {}}\npipeline: {name: os.system, params: {}}\n"),
        bad("pipeline-alias.yaml", "a pipeline of pyannote by an alias", *b"a: &b {name: os.system, params: {}}\npipeline: *b\n"),
        bad("pipeline-merged.yaml", "one of which a part is merged into it", *b"a: &b {name: os.system}\npipeline:\n  <<: [*b]\n  params: {}\n"),
        bad("pipeline-itself.yaml", "one that is a part of itself", *b"pipeline: &b\n  name: os.system\n  params: *b\n"),
        bad("layer-alias.yaml", "a layer of YOLO by an alias", *b"x: &b [-1, 1, os.system, [id]]\nbackbone:\n- *b\nhead: []\n"),
        bad("template-alias.yaml", "a long template by an alias", format!("x: &b \"{{{{ ''.__class__ }}}}{}\"\ntemplate: *b\n", LONG.repeat(10))),
        bad("text-by-key.yaml", "a text that YAML takes from a mapping", *b"class_path: !!str {a: b, =: os.system}\n"),
        bad("chunks.zip", "an array of Zarr whose chunks are pickles", zip(&[
            entry("x/.zarray", *br#"{"zarr_format": 2, "filters": [{"id": "pickle", "protocol": 5}], "compressor": null}"#),
            entry("x/0", *b"\x02\x01\x21\x08"),
        ])),
        bad("policy_preprocessor.json", "a step of LeRobot's", *br#"{"name": "p", "steps": [{"class": "subprocess.Popen", "config": {"args": ["id"]}}]}"#),
        bad("io.json", "a reference of fiddle's, as NeMo 2 has them", *br#"{"objects": {"a": {"type": {"type": "pyref", "module": "os", "name": "system"}}}}"#),
        bad("predictor.json", "an object of GluonTS", *br#"{"__kind__": "instance", "class": "subprocess.Popen", "args": [["id"]]}"#),
        bad("dashed-modules.json", "sentence-transformers' module in a file whose name has a dash", *br#"[{"idx": 0, "name": "0", "path": "", "type": "my-own.Pool"}]"#),
        bad("given.json", "an expression for MONAI that uses what is given to it", *br#"{"net": "$torch.hub.load('me/it', 'net')"}"#),
    ]
}

fn contained() -> Vec<File> {
    let first = || tar(&[("a.txt", b"text", None)]);
    let second = || tar(&[("b.pkl", &bare(), None)]);
    let gap = || b"junk".repeat(128);
    vec![
        bad(
            "unicode.keras",
            "a configuration of Keras by its name in Unicode",
            zip(&[
                entry("metadata.json", *b"{}"),
                Entry { extra: in_unicode("config.txt", "config.json"), ..entry("config.txt", LAMBDA) },
            ]),
        ),
        bad("two.tar", "a second tar behind the end of the first", [first(), second()].concat()),
        bad("two-apart.tar", "the same with other bytes between them", [first(), gap(), second()].concat()),
        bad(
            "two-of-model.nemo",
            "the same in an archive of NeMo's",
            [tar(&[("model_config.yaml", b"a: 1\n", None)]), second()].concat(),
        ),
        bad("then-pickle.tar", "a pickle behind the end of a tar", [first(), evil()].concat()),
        bad("behind-bytes.zip", "a zip behind other bytes, of which one entry is lost", behind_bytes()),
        bad("behind-bytes.tar", "the same in a tar", tar(&[("inner.zip", &behind_bytes(), None)])),
        bad("beheaded.zip", "a zip without its first bytes", without_its_beginning()),
        bad(
            "linked.tar",
            "a configuration by the name of a link",
            tar(&[
                ("notes.txt", br#"{"_target_": "os.system"}"#, None),
                ("config.json", b"", Some("notes.txt")),
            ]),
        ),
        bad(
            "linked-to-nothing.tar",
            "a link to what is not in the archive",
            tar(&[("config.json", b"", Some("notes.txt"))]),
        ),
        bad(
            "classes.jar",
            "classes of Java's",
            zip(&[
                entry("A.class", *b"\xca\xfe\xba\xbe\0\0\x004\0\0"),
                entry("B.class", *b"\xca\xfe\xba\xbe\0\0\x004\0\0"),
            ]),
        ),
        bad("cut-text.pt", "a pickle of protocol 0 that is cut off", *b"(dp0\nVa\np1\n(lp2\nI1\naI"),
    ]
}

/// What looks like it, and is none.
pub(super) fn shown() -> Vec<File> {
    let getattr = |name: &str| {
        let name = [&[b'U', name.len() as u8][..], name.as_bytes()].concat();
        p2(&[
            &global("__builtin__", "getattr")[..],
            &global("torch.optim.swa_utils", "SWALR"),
            &name,
            b"\x86R",
        ]
        .concat())
    };
    vec![
        good("merged.yaml", "a configuration of aliases", *b"a: &b {name: adam, lr: 0.1}\noptim:\n  <<: *b\n  lr: 0.2\nlist: [*b, *b]\n"),
        good("closed.yaml", "YAML whose bracket closes at the beginning of a line", *b"type: x\nfile_mounts: {\n# none\n}\n"),
        good("other-language.json", "expressions of another language", *br#"{"x": "$lowercase(Name)", "y": "$|^arn:aws(-cn)?:open(x)", "z": "$split(a, '/')[-1] $OR b"}"#),
        good("steps.json", "steps of LeRobot's own", *br#"{"name": "p", "steps": [{"class": "lerobot.processor.batch_processor.AddBatchDimensionProcessorStep"}]}"#),
        good("sentinel.jinja", "a template that compares with a word between underscores", *b"{%- set no = '__NOT_A_NUMBER__' -%}{{ 1 if x | int(default=no) != no else 2 }}"),
        good("letters.jinja", "a template whose words spell another by chance", *b"{{ store('accumulator', 'mask') }}"),
        good("averaged.pkl", "a schedule of averaged weights", getattr("_cosine_anneal")),
        bad("averaged-other.pkl", "another attribute of it", getattr("__init__")),
        good("uninitialized.pkl", "a buffer without a shape", p2(b"ctorch.nn.parameter\nUninitializedBuffer\n)\x81")),
        good("older-array.pkl", "an array as older NumPy pickled it", p2(b"cnumpy.core._internal\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R")),
        good("links.tar", "links within a tar", tar(&[
            ("zones/a", b"TZif", None),
            ("zones/b", b"", Some("a")),
            ("zones/c/d", b"", Some("../b")),
        ])),
        good("site.pth", "a line of Python, as installed packages have them", *b"import os; var = 'X'; enabled = os.environ.get(var)\n"),
        good("not.bin", "text that begins with a letter that is an opcode", *b"Not a model. (See the notes.)\n"),
        good("wide.bin", "text in UTF-16", "\u{feff}a text\n".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()),
        good("nothing.tar", "an empty tar in a tar", tar(&[("x.tar", &[0; 1024], None)])),
    ]
}
