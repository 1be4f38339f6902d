//! Files by which single loaders evaluate, import or change what is named: exported programs, pickles in JSON and behind each
//! other, models in YAML and HDF5, objects that the process shares. And benign ones of the same kinds.

use ckpt_kit::pickle::{global, short_text};
use ckpt_kit::tar::tar;
use ckpt_kit::zip::{entry, zip};

use super::misread::{hdf5, heap};
use super::{File, bad, bare, evil, gguf, good, p2, p3, state_dict, torch};

const PLAIN: &[u8] = b"(dp0\nS'x'\np1\nI1\ns.";
const SIZE: &str =
    "Add(Mul(Integer(2), Symbol('s77', positive=True, integer=True)), Max(Integer(1), Symbol('s0')))";
const NESTED: &str = r#"[1, {\"type\": \"builtins.dict\", \"context\": \"[{\\\"__enum__\\\": true, \\\"fqn\\\": \\\"elsewhere:E\\\", \\\"name\\\": \\\"A\\\"}]\", \"children_spec\": []}]"#;
const FACTORY: &str = r#"[1, {\"type\": \"collections.defaultdict\", \"context\": {\"default_factory_module\": \"elsewhere\", \"default_factory_name\": \"E\", \"dict_context\": []}}]"#;
const LAYERS: &str = r#"{"class_name": "Sequential", "config": {"name": "s", "layers": [{"class_name": "Dense", "config": {"units": 4, "activation": "relu"}}]}}"#;
const LAMBDA: &str = r#"{"class_name": "Sequential", "config": {"layers": [{"class_name": "Lambda", "config": {"function": ["4wEAAAA=", null, null], "function_type": "lambda"}}]}}"#;
const YOLO: &str = "nc: 80\nactivation: nn.SiLU()\nbackbone:\n  - [-1, 1, Conv, [64, 6, 2, 2]]\n  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]\nhead:\n  - [[-1, 6], 1, Concat, [1]]\n  - [[17, 20, 23], 1, Detect, [nc, anchors]]\n";

fn exported(size: &str, spec: &str) -> Vec<u8> {
    let graph = format!(
        r#"{{"graph_module": {{"graph": {{"nodes": [{{"target": "_operator.mul"}}, {{"target": "torch.ops.aten.relu.default"}}],
        "tensor_values": {{"x": {{"sizes": [{{"as_expr": {{"expr_str": "{size}", "hint": {{"as_int": 4}}}}}}]}}}}}},
        "module_call_graph": [{{"fqn": "", "signature": {{"in_spec": "{spec}"}}}}]}}}}"#
    );
    zip(&[entry("m/archive_format", *b"pt2"), entry("m/models/model.json", graph)])
}

/// The data of stable-baselines3 with one pickle.
fn agent(pickle: &str) -> Vec<u8> {
    let data = format!(r#"{{"gamma": 0.99, "policy": {{":type:": "x", ":serialized:": "{pickle}"}}}}"#);
    zip(&[entry("data", data), entry("_stable_baselines3_version", *b"2.9.2")])
}

fn model_config(text: &str) -> Vec<u8> {
    let size = (text.len() as u32).to_le_bytes();
    let head = &b"\x02\0\x0d\0\x08\0\x04\0model_config\0\x13\0\0\0"[..];
    hdf5(&[head, &size, b"\x02\0\0\0", text.as_bytes()].concat())
}

/// The same as a text of any length, which is in the heap behind the superblock.
fn in_heap(text: &str) -> Vec<u8> {
    let reference =
        [&(text.len() as u32).to_le_bytes()[..], &96u64.to_le_bytes(), &1u32.to_le_bytes()].concat();
    let head = &b"\x02\0\x0d\0\x08\0\x04\0model_config\0\x19\0\0\0\x10\0\0\0\x02\0\0\0"[..];
    hdf5(&[&heap(text.as_bytes())[..], head, &reference].concat())
}

fn call(module: &str, name: &str, arguments: &[&[u8]]) -> Vec<u8> {
    [&global(module, name)[..], b"(", &arguments.concat(), b"tR"].concat()
}

fn int(value: i32) -> Vec<u8> {
    [&b"J"[..], &value.to_le_bytes()].concat()
}

/// `value` with a state that sets one attribute.
fn with_state(value: &[u8]) -> Vec<u8> {
    p3(&[value, b"N}", &short_text("x"), b"K\x01s\x86b"])
}

fn lazy(gives: &[u8]) -> Vec<u8> {
    let layer = [
        &global("torch.nn.modules.linear", "LazyLinear")[..],
        b")\x81}",
        &short_text("_infer_parameters"),
        gives,
        b"sb",
    ];
    call("builtins", "getattr", &[&layer.concat(), &short_text("_infer_parameters")])
}

fn configured(text: &str) -> Vec<u8> {
    let len = (text.len() as u32).to_le_bytes();
    torch(p3(&[b"}", &short_text("meta"), b"}", &short_text("cfg"), b"X", &len, text.as_bytes(), b"ss"]), &[])
}

pub(super) fn loaders() -> Vec<File> {
    let mut files = programs();
    files.extend(changed());
    files.extend(named());
    files.extend(plain());
    files
}

fn programs() -> Vec<File> {
    vec![
        bad(
            "sizes.pt2",
            "an exported program whose size is Python",
            exported("__import__('os').system('id') or Symbol('s0')", "[1, null]"),
        ),
        bad(
            "sizes-text.pt2",
            "the same in a text, which SymPy evaluates again",
            exported("Max(Symbol('s0'), 'print(1)')", "[1, null]"),
        ),
        bad("arguments.pt2", "arguments with a member of an enumeration elsewhere", exported(SIZE, NESTED)),
        bad(
            "defaults.pt2",
            "arguments with a dict whose defaults are made elsewhere",
            exported(SIZE, FACTORY),
        ),
        bad(
            "export.json",
            "the same in transformers' description",
            format!(r#"{{"components": {{"model": {{"metadata": {{"out_spec": "{FACTORY}"}}}}}}}}"#),
        ),
        good(
            "sizes-plain.pt2",
            "an exported program",
            exported(
                SIZE,
                r#"[1, {\"type\": \"builtins.tuple\", \"context\": \"null\", \"children_spec\": []}]"#,
            ),
        ),
        bad(
            "agent.zip",
            "a pickle in the JSON of stable-baselines3",
            agent("Y3Bvc2l4CnN5c3RlbQooUydpZCcKdFIu"),
        ),
        good("agent-plain.zip", "a pickle of a dict there", agent("gAJ9Lg==")),
        bad("continued.model", "a pickle of a dict, and behind it one that calls", [PLAIN, &bare()].concat()),
        bad("continued.dill", "the same with a header", [PLAIN, &evil()].concat()),
        bad("continued.tar", "the same in a tar", tar(&[("state", &[PLAIN, &bare()].concat(), None)])),
        bad("continued-p1", "the same behind one of protocol 1", [&b"\x80\x01K\x01."[..], &bare()].concat()),
        bad(
            "continued-od.state",
            "the same behind an OrderedDict",
            [&b"ccollections\nOrderedDict\n(tR."[..], &bare()].concat(),
        ),
        good("continued-plain.pkl", "several pickles of nothing", [PLAIN, PLAIN].concat()),
    ]
}

fn changed() -> Vec<File> {
    let status = call("http", "HTTPStatus", &[&int(404)]);
    let logger = call("logging", "getLogger", &[&short_text("x")]);
    let with_dict = [&logger[..], b"}", &short_text("disabled"), b"\x88sb"].concat();
    let encoding = global("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING");
    let rebuilt = call(
        "torch._tensor",
        "_rebuild_from_type_v2",
        &[
            &global("http", "HTTPStatus"),
            &global("torch", "Tensor"),
            b"(",
            &int(404),
            b"t}",
            &short_text("x"),
            b"K\x01s",
        ],
    );
    vec![
        bad("status-changed.pkl", "the state of a member of an enumeration", with_state(&status)),
        bad("logger-changed.pkl", "the state of a logger", p2(&with_dict)),
        bad(
            "gotten-changed.pkl",
            "the state of a class that a lazy layer holds",
            with_state(&lazy(&global("torch.nn.modules.linear", "Linear"))),
        ),
        bad(
            "encoding-changed.pkl",
            "an item of a class",
            p3(&[&encoding, b"}", &short_text("x"), b"K\x01s0", &short_text("x"), b"K\x01s"]),
        ),
        bad("rebuilt-changed.pkl", "attributes of what _rebuild_from_type_v2 calls", p3(&[&rebuilt])),
        bad(
            "factorial.pkl",
            "math.factorial of two billion",
            p3(&[&call("math", "factorial", &[&int(2_000_000_000)])]),
        ),
        bad(
            "permutations.pkl",
            "math.perm of the same",
            p3(&[&call("math", "perm", &[&int(2_000_000_000)])]),
        ),
        bad(
            "combinations.pkl",
            "math.comb of the same",
            p3(&[&call("math", "comb", &[&int(2_000_000_000), &int(1_000_000_000)])]),
        ),
        bad(
            "product.pkl",
            "math.prod of a long range",
            p3(&[&call("math", "prod", &[&call("builtins", "range", &[b"K\x01", &int(200_000_000)])])]),
        ),
        bad(
            "layer-large.pkl",
            "a layer of 10^12 weights",
            p3(&[&call("torch.nn.modules.linear", "Linear", &[&int(1_000_000), &int(1_000_000)])]),
        ),
        good(
            "combinations-small.pkl",
            "math.comb of a large number and two",
            p3(&[&call("math", "comb", &[&int(2_000_000_000), b"K\x02"])]),
        ),
        bad(
            "mesh-called.pkl",
            "DeviceMesh, which reaches for devices when it is called",
            p3(&[&call("torch.distributed.device_mesh", "DeviceMesh", &[&short_text("cpu"), b"K\0\x85"])]),
        ),
        good(
            "mesh.pkl",
            "a DeviceMesh that is made anew",
            p3(&[
                &global("torch.distributed.device_mesh", "DeviceMesh"),
                b")\x81}",
                &short_text("device_type"),
                &short_text("cpu"),
                b"sb",
            ]),
        ),
    ]
}

fn named() -> Vec<File> {
    vec![
        bad(
            "cross-encoder.json",
            "an activation of a cross-encoder",
            r#"{"model_type": "bert", "sbert_ce_default_activation_function": "os.abort"}"#,
        ),
        good(
            "cross-plain.json",
            "the same of PyTorch",
            r#"{"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}"#,
        ),
        bad(
            "modules.json",
            "a module of sentence-transformers without a number",
            r#"[{"name": "0", "path": "", "type": "custom_pool.Pool"}]"#,
        ),
        bad(
            "pipeline.yaml",
            "a pipeline of pyannote that is a program",
            "pipeline:\n  name: subprocess.Popen\n  params: {args: [id]}\n",
        ),
        bad(
            "preprocessors.yaml",
            "a preprocessor of pyannote elsewhere",
            "pipeline:\n  name: pyannote.audio.pipelines.SpeakerDiarization\n  params: {}\npreprocessors:\n  x:\n    name: elsewhere.Thing\n",
        ),
        good(
            "pyannote.yaml",
            "a pipeline of pyannote",
            "version: 3.1.0\npipeline:\n  name: pyannote.audio.pipelines.SpeakerDiarization\n  params: {clustering: AgglomerativeClustering}\n",
        ),
        bad(
            "yolo-activation.yaml",
            "an activation of YOLO that is Python",
            YOLO.replace("nn.SiLU()", "\"__import__('os').system('id')\""),
        ),
        bad(
            "yolo-module.yaml",
            "a module of YOLO that runs its arguments",
            YOLO.replace("Conv, [64, 6, 2, 2]", "exec, [\"'1'\"]"),
        ),
        good("yolo.yaml", "a model of YOLO", YOLO),
        bad(
            "mm.pth",
            "a configuration of MMEngine in a checkpoint",
            configured("import os\nos.system('id')\nmodel = dict(type='X')\n"),
        ),
        good(
            "mm-plain.pth",
            "the same without code",
            configured("model = dict(\n    type='RetinaNet',\n    depth=50)\n# end\n"),
        ),
        bad(
            "pyannote.bin",
            "an architecture of pyannote elsewhere",
            p3(&[
                b"}",
                &short_text("architecture"),
                b"}(",
                &short_text("module"),
                &short_text("elsewhere"),
                &short_text("class"),
                &short_text("E"),
                b"us",
            ]),
        ),
        bad(
            "mlx.json",
            "code that mlx-lm imports",
            r#"{"model_type": "llama", "model_file": "modeling.py"}"#,
        ),
        bad(
            "genai_config.json",
            "a library that ONNX Runtime loads",
            r#"{"model": {"decoder": {"session_options": {"custom_ops_library": "./evil.so"}}}}"#,
        ),
        bad(
            "model_index.json",
            "a component of diffusers elsewhere",
            r#"{"_class_name": "DDPMPipeline", "unet": ["elsewhere", "E"]}"#,
        ),
        bad("lambda.h5", "a Lambda layer of Keras in HDF5", model_config(LAMBDA)),
        bad("lambda-heap.h5", "the same in its heap", in_heap(LAMBDA)),
        bad("cut-off.h5", "a configuration of Keras that cannot be read", model_config(&LAMBDA[..40])),
        good("layers.h5", "a model of Keras in HDF5", model_config(LAYERS)),
        good("layers-heap.h5", "the same in its heap", in_heap(LAYERS)),
    ]
}

fn plain() -> Vec<File> {
    let mut memmap = b"\x80\x04}".to_vec();
    memmap.extend(
        [&short_text("a")[..], &global("joblib.numpy_pickle", "NumpyArrayWrapper"), b")\x81}("].concat(),
    );
    memmap.extend(
        [&short_text("subclass")[..], &global("numpy", "memmap"), &short_text("shape"), b"K\0\x85"].concat(),
    );
    memmap.extend(
        [&short_text("order")[..], &short_text("C"), &short_text("dtype"), &global("numpy", "dtype")]
            .concat(),
    );
    memmap.extend(
        [
            &short_text("f8")[..],
            b"\x89\x88\x87R(K\x03",
            &short_text("<"),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb",
        ]
        .concat(),
    );
    memmap.extend([&short_text("allow_mmap")[..], b"\x88ubs."].concat());
    let types = [&b"("[..], &global("builtins", "int"), &call("builtins", "type", &[b"N"]), b"t"].concat();
    let numbers = call("builtins", "iter", &[b"]K\x01a"]);
    vec![
        good("memmap.joblib", "an array of joblib's that was in a file", memmap),
        good(
            "annotation.pkl",
            "Optional[int]",
            p3(&[&call("operator", "getitem", &[&global("typing", "Union"), &types])]),
        ),
        bad(
            "annotated.pkl",
            "an item of something else",
            p3(&[&call("operator", "getitem", &[&global("elsewhere", "all"), b"K\x01"])]),
        ),
        good(
            "mapped.pkl",
            "map(int, …)",
            p3(&[&call("builtins", "map", &[&global("builtins", "int"), &numbers])]),
        ),
        good("filtered.pkl", "filter(None, …)", p3(&[&call("builtins", "filter", &[b"N", &numbers])])),
        bad(
            "mapped-other.pkl",
            "map of something else",
            p3(&[&call("builtins", "map", &[&global("elsewhere", "f"), &numbers])]),
        ),
        good(
            "text.pkl",
            "io.StringIO",
            p3(&[&global("_io", "StringIO"), b")\x81(", &short_text("a"), &short_text("\n"), b"K\x01Ntb"]),
        ),
        good("added.pkl", "operator.add", p3(&[&global("_operator", "add")])),
        good(
            "inner.tar",
            "a tar whose last member is a file of PyTorch's",
            tar(&[("a.txt", b"x", None), ("w.pt", &torch(state_dict(), &[]), None)]),
        ),
        good(
            "key.gguf",
            "a chat template that looks an item up",
            gguf("tokenizer.chat_template", "{{ m['__type__'] if m is defined else '' }}"),
        ),
        bad(
            "key-class.gguf",
            "a chat template that looks a class up",
            gguf("tokenizer.chat_template", "{{ m['__class__'] }}"),
        ),
        bad(
            "key-parts.gguf",
            "a chat template that puts a name together",
            gguf("tokenizer.chat_template", "{{ m[['__type__'][0][:2] ~ 'class__'] }}"),
        ),
    ]
}
