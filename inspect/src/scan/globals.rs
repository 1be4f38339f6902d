//! Which imports of a pickle are harmless, which are dangerous; all others are unknown.
//!
//! Harmless are the names that PyTorch's own restricted unpickler accepts (`torch/_weights_only_unpickler.py`), those
//! that numpy's arrays and generators need, and plain data types of the standard library: calling them with any
//! arguments builds a value and nothing else, and never gives back an argument, which could be a class that BUILD then
//! changes. Each module is listed with exact names; `*` after a prefix is used only
//! where all names with that prefix are of one kind.

/// What is known about an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Builds data.
    Harmless,
    /// Why it is dangerous.
    Dangerous(&'static str),
    /// Neither.
    Unknown,
}

const HARMLESS: &[(&str, &[&str])] = &[
    (
        "torch._utils",
        &[
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
            "_rebuild_qtensor",
            "_rebuild_sparse_tensor",
            "_rebuild_sparse_csr_tensor",
            "_rebuild_nested_tensor",
            "_rebuild_device_tensor_from_numpy",
            "_rebuild_device_tensor_from_cpu_tensor",
            "_rebuild_meta_tensor_no_storage",
            "_rebuild_wrapper_subclass",
            "_rebuild_xla_tensor",
        ],
    ),
    ("torch._tensor", &["_rebuild_from_type", "_rebuild_from_type_v2"]),
    // Its argument is a separate file, which is scanned; it is not harmless if something else calls it.
    (
        "torch.storage",
        &["_load_from_bytes", "TypedStorage", "UntypedStorage", "_TypedStorage", "_UntypedStorage"],
    ),
    ("torch.serialization", &["_get_layout"]),
    // What the listing of a distributed checkpoint is made of.
    (
        "torch.distributed.checkpoint.metadata",
        &[
            "Metadata",
            "TensorStorageMetadata",
            "TensorProperties",
            "_MEM_FORMAT_ENCODING",
            "ChunkStorageMetadata",
            "BytesStorageMetadata",
            "MetadataIndex",
            "StorageMeta",
        ],
    ),
    ("torch.distributed.checkpoint.filesystem", &["_StorageInfo"]),
    // What tensors of several ranks are made of.
    ("torch.distributed.tensor", &["DTensor"]),
    ("torch.distributed.tensor._api", &["DTensor"]),
    ("torch.distributed._tensor.api", &["DTensor"]),
    ("torch.distributed.tensor._dtensor_spec", &["DTensorSpec", "TensorMeta", "ShardOrderEntry"]),
    ("torch.distributed._tensor.placement_types", &["DTensorSpec", "TensorMeta", "Shard", "Replicate"]),
    (
        "torch.distributed.tensor.placement_types",
        &["Shard", "_StridedShard", "Replicate", "Partial", "DTensorSpec", "TensorMeta"],
    ),
    ("torch.distributed.device_mesh", &["DeviceMesh"]),
    ("torch.distributed._shard.sharded_tensor.api", &["ShardedTensor"]),
    ("torch.distributed._shard.sharded_tensor.shard", &["Shard"]),
    (
        "torch.distributed._shard.sharded_tensor.metadata",
        &["ShardedTensorMetadata", "TensorProperties", "MEM_FORMAT_ENCODING"],
    ),
    ("torch.distributed._shard.metadata", &["ShardMetadata"]),
    ("torch.distributed._shard.sharding_spec.chunk_sharding_spec", &["ChunkShardingSpec"]),
    ("torch.distributed._shard.sharding_spec.api", &["EnumerableShardingSpec"]),
    ("torch.distributed.remote_device", &["_remote_device"]),
    ("torch.distributed._mesh_layout", &["_MeshLayout", "_FlatLayout"]),
    // Settings and addresses that DeepSpeed saves with its partitions.
    ("deepspeed.runtime.zero.config", &["ZeroStageEnum"]),
    ("deepspeed.runtime.fp16.loss_scaler", &["LossScaler", "DynamicLossScaler"]),
    ("deepspeed.utils.tensor_fragment", &["fragment_address"]),
    ("torch.nn.parameter", &["Parameter", "Buffer", "UninitializedParameter"]),
    ("torch.nested._internal.nested_tensor", &["NestedTensor", "_rebuild_njt"]),
    (
        "torch",
        &[
            "Size",
            "device",
            "Tensor",
            "Generator",
            "strided",
            "sparse_coo",
            "sparse_csr",
            "sparse_csc",
            "sparse_bsr",
            "sparse_bsc",
            "jagged",
            "preserve_format",
            "contiguous_format",
            "channels_last",
            "channels_last_3d",
            "per_tensor_affine",
            "per_channel_affine",
            "per_tensor_symmetric",
            "per_channel_symmetric",
            "per_channel_affine_float_qparams",
            "bool",
            "bcomplex32",
            "complex32",
            "complex64",
            "complex128",
        ],
    ),
    (
        "torch.nn.functional",
        &[
            "adaptive_avg_pool2d",
            "adaptive_avg_pool3d",
            "adaptive_max_pool1d",
            "adaptive_max_pool2d",
            "adaptive_max_pool3d",
            "affine_grid",
            "alpha_dropout",
            "batch_norm",
            "binary_cross_entropy",
            "binary_cross_entropy_with_logits",
            "celu",
            "cosine_embedding_loss",
            "cross_entropy",
            "ctc_loss",
            "dropout",
            "dropout1d",
            "dropout2d",
            "dropout3d",
            "elu",
            "embedding",
            "embedding_bag",
            "feature_alpha_dropout",
            "fold",
            "gaussian_nll_loss",
            "gelu",
            "glu",
            "grid_sample",
            "group_norm",
            "gumbel_softmax",
            "hardsigmoid",
            "hardswish",
            "hardtanh",
            "hinge_embedding_loss",
            "huber_loss",
            "instance_norm",
            "interpolate",
            "kl_div",
            "l1_loss",
            "layer_norm",
            "leaky_relu",
            "local_response_norm",
            "log_softmax",
            "logsigmoid",
            "lp_pool1d",
            "lp_pool2d",
            "margin_ranking_loss",
            "max_pool1d",
            "max_pool2d",
            "max_pool3d",
            "max_unpool1d",
            "max_unpool2d",
            "max_unpool3d",
            "mish",
            "mse_loss",
            "multi_head_attention_forward",
            "multi_margin_loss",
            "multilabel_margin_loss",
            "multilabel_soft_margin_loss",
            "nll_loss",
            "normalize",
            "pad",
            "poisson_nll_loss",
            "relu",
            "relu6",
            "rms_norm",
            "rrelu",
            "selu",
            "sigmoid",
            "silu",
            "smooth_l1_loss",
            "soft_margin_loss",
            "softmax",
            "softmin",
            "softplus",
            "softsign",
            "tanh",
            "tanhshrink",
            "threshold",
            "triplet_margin_loss",
            "unfold",
            "upsample",
        ],
    ),
    (
        "torch._C._nn",
        &[
            "avg_pool2d",
            "avg_pool3d",
            "elu",
            "elu_",
            "gelu",
            "glu",
            "hardswish",
            "hardtanh_",
            "leaky_relu_",
            "linear",
            "log_sigmoid",
            "mish",
            "one_hot",
            "scaled_dot_product_attention",
            "silu",
            "softplus",
            "softshrink",
        ],
    ),
    // A random generator, from a device; its state is two numbers and a tensor.
    ("torch._C", &["Generator"]),
    (
        "collections",
        &["ChainMap", "Counter", "OrderedDict", "UserDict", "UserList", "UserString", "defaultdict", "deque"],
    ),
    // It keeps a function, which is an import of its own, and calls it only when it is called.
    ("functools", &["partial"]),
    ("itertools", &["chain", "count", "cycle", "repeat"]),
    ("array", &["array", "_array_reconstructor"]),
    ("re", &["_compile", "RegexFlag"]),
    ("random", &["Random"]),
    ("time", &["struct_time"]),
    ("typing", &["Any", "Dict", "List", "Optional", "Sequence", "Set", "Tuple", "Union"]),
    (
        "ipaddress",
        &["IPv4Address", "IPv4Interface", "IPv4Network", "IPv6Address", "IPv6Interface", "IPv6Network"],
    ),
    ("argparse", &["Namespace"]),
    ("types", &["SimpleNamespace"]),
    ("_codecs", &["encode"]),
    ("copyreg", &["_reconstructor"]),
    ("copy_reg", &["_reconstructor"]),
    ("datetime", &["datetime", "date", "time", "timedelta", "timezone"]),
    ("decimal", &["Decimal"]),
    ("_decimal", &["Decimal"]),
    ("fractions", &["Fraction"]),
    ("numpy", &["dtype", "ndarray", "matrix", "recarray", "record", "finfo", "iinfo", "poly1d"]),
    ("numpy.rec", &["recarray", "record"]),
    ("numpy.core.records", &["recarray", "record"]),
    ("numpy._core.records", &["recarray", "record"]),
    ("numpy.polynomial.polynomial", &["Polynomial"]),
    // Universal functions, which are arithmetic on arrays.
    (
        "numpy",
        &[
            "absolute", "add", "cos", "divide", "exp", "expm1", "log", "log10", "log1p", "log2", "multiply",
            "sign", "sin", "sqrt", "square", "subtract", "tan", "tanh",
        ],
    ),
    ("numpy.matrixlib.defmatrix", &["matrix"]),
    ("numpy.ma.core", &["MaskedArray", "_mareconstruct"]),
    ("numpy.ma", &["MaskedArray"]),
    ("numpy.core.multiarray", &["_reconstruct", "scalar"]),
    ("numpy._core.multiarray", &["_reconstruct", "scalar"]),
    ("numpy.core.numeric", &["_frombuffer"]),
    ("numpy._core.numeric", &["_frombuffer"]),
    ("numpy.random._pickle", &["__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"]),
    ("numpy.random._mt19937", &["MT19937"]),
    ("numpy.random._pcg64", &["PCG64", "PCG64DXSM"]),
    ("numpy.random._philox", &["Philox"]),
    ("numpy.random._sfc64", &["SFC64"]),
    ("numpy.random.bit_generator", &["SeedSequence", "__pyx_unpickle_SeedSequence"]),
    ("torch.distributed.checkpoint.filesystem", &["_StorageInfo", "_StoragePrefix"]),
    // Optimizers and schedulers: their state is dicts of numbers and tensors. What they call by then, `lr_lambda`, is an
    // import of its own.
    ("torch.optim.sgd", &["SGD"]),
    ("torch.optim.adam", &["Adam"]),
    ("torch.optim.adamw", &["AdamW"]),
    ("torch.optim.adadelta", &["Adadelta"]),
    ("torch.optim.adagrad", &["Adagrad"]),
    ("torch.optim.adamax", &["Adamax"]),
    ("torch.optim.asgd", &["ASGD"]),
    ("torch.optim.lbfgs", &["LBFGS"]),
    ("torch.optim.nadam", &["NAdam"]),
    ("torch.optim.radam", &["RAdam"]),
    ("torch.optim.rmsprop", &["RMSprop"]),
    ("torch.optim.rprop", &["Rprop"]),
    ("torch.optim.sparse_adam", &["SparseAdam"]),
    ("torch.optim._adafactor", &["Adafactor"]),
    ("torch.optim._muon", &["Muon"]),
    ("torch.optim", &["Adafactor", "Muon"]),
    (
        "torch.optim.lr_scheduler",
        &[
            "ChainedScheduler",
            "ConstantLR",
            "CosineAnnealingLR",
            "CosineAnnealingWarmRestarts",
            "ExponentialLR",
            "LambdaLR",
            "LinearLR",
            "MultiStepLR",
            "MultiplicativeLR",
            "OneCycleLR",
            "PolynomialLR",
            "ReduceLROnPlateau",
            "SequentialLR",
            "StepLR",
        ],
    ),
    ("torch.optim.swa_utils", &["AveragedModel"]),
    ("torch.amp.grad_scaler", &["GradScaler", "_refresh_per_optimizer_state"]),
    ("torch.cuda.amp.grad_scaler", &["GradScaler", "_refresh_per_optimizer_state"]),
    // Hooks that layers keep: they run when the layer is used, and hold a name, numbers and tensors.
    ("torch.nn.modules.module", &["_WrappedHook"]),
    ("torch.nn.utils.weight_norm", &["WeightNorm"]),
    (
        "torch.nn.utils.spectral_norm",
        &["SpectralNorm", "SpectralNormLoadStateDictPreHook", "SpectralNormStateDictHook"],
    ),
    (
        "torch.nn.utils.prune",
        &[
            "CustomFromMask",
            "Identity",
            "L1Unstructured",
            "LnStructured",
            "PruningContainer",
            "RandomStructured",
            "RandomUnstructured",
        ],
    ),
    ("torch.nn.utils.rnn", &["PackedSequence"]),
    ("torch.nn.parallel.data_parallel", &["DataParallel"]),
    ("torch.utils.data.dataset", &["ConcatDataset", "Subset", "TensorDataset"]),
    // Tuples with named parts.
    (
        "torch.return_types",
        &[
            "aminmax",
            "cummax",
            "cummin",
            "frexp",
            "geqrf",
            "histogram",
            "histogramdd",
            "kthvalue",
            "linalg_eig",
            "linalg_eigh",
            "linalg_lstsq",
            "linalg_lu",
            "linalg_lu_factor",
            "linalg_qr",
            "linalg_slogdet",
            "linalg_svd",
            "lu_unpack",
            "max",
            "median",
            "min",
            "mode",
            "nanmedian",
            "slogdet",
            "sort",
            "svd",
            "topk",
            "triangular_solve",
        ],
    ),
    ("io", &["BytesIO"]),
    ("_io", &["BytesIO"]),
    ("uuid", &["UUID"]),
    ("joblib.numpy_pickle", &["NumpyArrayWrapper", "NDArrayWrapper"]),
    ("scipy.sparse._csr", &["csr_matrix", "csr_array"]),
    ("scipy.sparse._csc", &["csc_matrix", "csc_array"]),
    ("scipy.sparse._coo", &["coo_matrix", "coo_array"]),
    ("scipy.sparse._bsr", &["bsr_matrix", "bsr_array"]),
    ("scipy.sparse._dia", &["dia_matrix", "dia_array"]),
    ("scipy.sparse._dok", &["dok_matrix", "dok_array"]),
    ("scipy.sparse._lil", &["lil_matrix", "lil_array"]),
];

/// Of `builtins` and its older names.
const HARMLESS_BUILTINS: &[&str] = &[
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "long",
    "object",
    "range",
    "xrange",
    "set",
    "slice",
    "str",
    "tuple",
    "unicode",
    "NoneType",
    "Ellipsis",
    "NotImplemented",
    "abs",
    "enumerate",
    "iter",
    "len",
    "reversed",
    "round",
    "sorted",
    "zip",
    "ArithmeticError",
    "AssertionError",
    "AttributeError",
    "BaseException",
    "EOFError",
    "Exception",
    "FileExistsError",
    "FileNotFoundError",
    "FloatingPointError",
    "IndexError",
    "KeyError",
    "KeyboardInterrupt",
    "LookupError",
    "NameError",
    "NotImplementedError",
    "OSError",
    "OverflowError",
    "PermissionError",
    "RuntimeError",
    "StopIteration",
    "TimeoutError",
    "TypeError",
    "ValueError",
    "ZeroDivisionError",
];

/// The names of `builtins`, now and earlier.
pub(crate) const BUILTINS: [&str; 3] = ["builtins", "__builtin__", "__builtins__"];

const RUNS: &str = "runs programs or Python code";
const REACHES: &str = "can reach any attribute or function";
const IMPORTS: &str = "imports or loads code";
const FILES: &str = "reads or changes files";
const NETWORK: &str = "uses the network";
const NATIVE: &str = "loads native code or writes to memory";
const UNPICKLES: &str = "unpickles data that cannot be inspected here";
const DISARMS: &str = "tampers with pickle scanners";

/// Modules in which everything is dangerous, including their submodules.
const DANGEROUS_MODULES: &[(&str, &str)] = &[
    ("os", RUNS),
    ("posix", RUNS),
    ("nt", RUNS),
    ("posixpath", FILES),
    ("ntpath", FILES),
    ("subprocess", RUNS),
    ("_posixsubprocess", RUNS),
    ("commands", RUNS),
    ("popen2", RUNS),
    ("pty", RUNS),
    ("pexpect", RUNS),
    ("sys", REACHES),
    ("code", RUNS),
    ("codeop", RUNS),
    ("runpy", RUNS),
    ("timeit", RUNS),
    ("trace", RUNS),
    ("bdb", RUNS),
    ("pdb", RUNS),
    ("profile", RUNS),
    ("cProfile", RUNS),
    ("doctest", RUNS),
    ("unittest", RUNS),
    ("test", RUNS),
    ("idlelib", RUNS),
    ("lib2to3", RUNS),
    ("ensurepip", RUNS),
    ("pip", RUNS),
    ("venv", RUNS),
    ("distutils", RUNS),
    ("setuptools", RUNS),
    ("webbrowser", RUNS),
    ("antigravity", RUNS),
    ("pydoc", RUNS),
    ("_pyrepl", RUNS),
    ("_osx_support", RUNS),
    ("_aix_support", RUNS),
    ("uuid", RUNS),
    ("platform", RUNS),
    ("asyncio", RUNS),
    ("multiprocessing", RUNS),
    ("concurrent", RUNS),
    ("threading", RUNS),
    ("_thread", RUNS),
    ("sched", RUNS),
    ("signal", RUNS),
    ("_signal", RUNS),
    ("atexit", RUNS),
    ("marshal", RUNS),
    ("importlib", IMPORTS),
    ("_frozen_importlib", IMPORTS),
    ("_frozen_importlib_external", IMPORTS),
    ("imp", IMPORTS),
    ("_imp", IMPORTS),
    ("pkgutil", IMPORTS),
    ("zipimport", IMPORTS),
    ("modulefinder", IMPORTS),
    ("site", IMPORTS),
    ("operator", REACHES),
    ("_operator", REACHES),
    ("functools", REACHES),
    ("_functools", REACHES),
    ("inspect", REACHES),
    ("gc", REACHES),
    ("weakref", REACHES),
    ("ctypes", NATIVE),
    ("_ctypes", NATIVE),
    ("cffi", NATIVE),
    ("_cffi_backend", NATIVE),
    ("mmap", NATIVE),
    ("socket", NETWORK),
    ("_socket", NETWORK),
    ("ssl", NETWORK),
    ("select", NETWORK),
    ("selectors", NETWORK),
    ("socketserver", NETWORK),
    ("SocketServer", NETWORK),
    ("http", NETWORK),
    ("httplib", NETWORK),
    ("urllib", NETWORK),
    ("urllib2", NETWORK),
    ("requests", NETWORK),
    ("aiohttp", NETWORK),
    ("httpx", NETWORK),
    ("smtplib", NETWORK),
    ("imaplib", NETWORK),
    ("ftplib", NETWORK),
    ("poplib", NETWORK),
    ("telnetlib", NETWORK),
    ("nntplib", NETWORK),
    ("xmlrpc", NETWORK),
    ("xmlrpclib", NETWORK),
    ("paramiko", NETWORK),
    ("io", FILES),
    ("_io", FILES),
    ("_pyio", FILES),
    ("codecs", FILES),
    ("shutil", FILES),
    ("tempfile", FILES),
    ("filecmp", FILES),
    ("fileinput", FILES),
    ("glob", FILES),
    ("linecache", FILES),
    ("tokenize", FILES),
    ("difflib", FILES),
    ("compileall", FILES),
    ("py_compile", FILES),
    ("logging", FILES),
    ("syslog", FILES),
    ("tarfile", FILES),
    ("zipfile", FILES),
    ("gzip", FILES),
    ("bz2", FILES),
    ("lzma", FILES),
    ("shelve", FILES),
    ("dbm", FILES),
    ("sqlite3", FILES),
    ("_sqlite3", FILES),
    ("pickle", UNPICKLES),
    ("_pickle", UNPICKLES),
    ("cPickle", UNPICKLES),
    ("pickletools", UNPICKLES),
    ("dill", UNPICKLES),
    ("cloudpickle", RUNS),
    ("joblib", UNPICKLES),
    ("fickling", DISARMS),
    ("picklescan", DISARMS),
    ("modelscan", DISARMS),
    ("modelaudit", DISARMS),
    ("torch.hub", IMPORTS),
    ("torch.jit", IMPORTS),
    ("torch.package", IMPORTS),
    ("torch.compile", RUNS),
    ("torch._dynamo", RUNS),
    ("torch._inductor", RUNS),
    ("torch._C", NATIVE),
    ("torch.ops", NATIVE),
    ("torch._ops", NATIVE),
    ("torch.classes", NATIVE),
    ("torch.utils.cpp_extension", NATIVE),
    ("torch.utils._config_module", UNPICKLES),
    ("torch.utils.bottleneck", RUNS),
    ("torch.utils.collect_env", RUNS),
    ("torch.utils.data.datapipes", RUNS),
    ("torch.utils.model_zoo", NETWORK),
    ("torch.utils.tensorboard", FILES),
    ("torch.distributed", NETWORK),
    ("torch.multiprocessing", RUNS),
    ("torch.testing", RUNS),
    ("torch.fx", RUNS),
    ("torch.onnx", FILES),
    ("torch.export", IMPORTS),
    ("torch._export", IMPORTS),
    ("torch.serialization", UNPICKLES),
    ("torch.cuda.tunable", FILES),
    ("numpy.f2py", RUNS),
    ("numpy.distutils", RUNS),
    ("numpy.testing", RUNS),
    ("numpy.ctypeslib", NATIVE),
    ("numpy.lib.npyio", FILES),
    ("numpy.lib._npyio_impl", FILES),
    ("IPython", RUNS),
    ("ipykernel", RUNS),
];

/// Dangerous names of other modules, including builtins.
const DANGEROUS_NAMES: &[(&str, &[&str], &str)] = &[
    (
        "builtins",
        &["eval", "exec", "compile", "execfile", "apply", "breakpoint", "input", "raw_input", "help"],
        RUNS,
    ),
    (
        "builtins",
        &[
            "getattr",
            "setattr",
            "delattr",
            "hasattr",
            "globals",
            "locals",
            "vars",
            "dir",
            "type",
            "super",
            "map",
            "filter",
            "reduce",
            "property",
            "memoryview",
        ],
        REACHES,
    ),
    ("builtins", &["__import__", "reload", "__loader__", "__spec__"], IMPORTS),
    ("builtins", &["open", "file"], FILES),
    ("types", &["CodeType", "FunctionType", "LambdaType", "MethodType", "ModuleType", "CellType"], RUNS),
    ("torch", &["load", "save", "compile", "from_file", "vmap", "import_ir_module"], UNPICKLES),
    (
        "numpy",
        &["load", "save", "savez", "savetxt", "loadtxt", "fromfile", "genfromtxt", "memmap", "DataSource"],
        FILES,
    ),
    ("numpy", &["vectorize", "apply_along_axis", "fromfunction", "frompyfunc"], RUNS),
    ("pandas", &["read_pickle", "read_csv", "read_html", "eval"], UNPICKLES),
    ("pandas.io.pickle", &["read_pickle"], UNPICKLES),
    ("copyreg", &["add_extension", "pickle", "__reduce_ex__"], REACHES),
    ("itertools", &["starmap", "accumulate"], REACHES),
];

/// Names that lead out of a module, anywhere in a path of attributes.
const DANGEROUS_STEPS: &[&str] = &[
    "os",
    "sys",
    "posix",
    "nt",
    "subprocess",
    "builtins",
    "__builtins__",
    "__builtin__",
    "importlib",
    "shutil",
    "socket",
    "ctypes",
    "runpy",
    "pty",
    "pickle",
    "eval",
    "exec",
    "system",
    "popen",
    "Popen",
    "check_output",
    "__globals__",
    "__subclasses__",
    "__import__",
    "__getattribute__",
    "__code__",
    "__dict__",
    "__class__",
    "__base__",
    "__bases__",
    "__mro__",
    "__reduce__",
    "__reduce_ex__",
    "__init__",
    "f_globals",
    "gi_frame",
];

/// What is known about `module.name`.
pub(crate) fn classify(module: &str, name: &str) -> Class {
    let canonical = if BUILTINS.contains(&module) { "builtins" } else { module };
    if canonical == "builtins" && HARMLESS_BUILTINS.contains(&name) {
        return Class::Harmless;
    }
    if HARMLESS.iter().any(|(m, names)| *m == module && names.contains(&name)) || is_torch_data(module, name)
    {
        return Class::Harmless;
    }
    if let Some((_, _, why)) =
        DANGEROUS_NAMES.iter().find(|(m, names, _)| *m == canonical && names.contains(&first(name)))
    {
        return Class::Dangerous(why);
    }
    // A name may be a path of attributes, through modules that a module imports.
    let path = format!("{module}.{name}");
    let within = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    if let Some((_, why)) = DANGEROUS_MODULES.iter().find(|(prefix, _)| within(prefix)) {
        return Class::Dangerous(why);
    }
    if name.split('.').any(|step| DANGEROUS_STEPS.contains(&step)) {
        return Class::Dangerous(REACHES);
    }
    Class::Unknown
}

fn first(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Types, storages and layers of PyTorch, which come in families.
fn is_torch_data(module: &str, name: &str) -> bool {
    let word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let class = word && name.starts_with(|c: char| c.is_ascii_uppercase());
    match module {
        "torch" | "torch.cuda" | "torch.sparse" | "torch.cuda.sparse" if class => {
            name.ends_with("Storage") || (name.ends_with("Tensor") && name != "TensorDict")
        }
        "torch" => {
            let digits = |prefix: &str| {
                name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            };
            word && ["float", "bfloat", "int", "uint", "qint", "quint", "bits"].iter().any(|p| digits(p))
        }
        "numpy" | "numpy.dtypes" if class => module == "numpy.dtypes" && name.ends_with("DType"),
        "numpy" => ["float", "int", "uint", "complex", "bool", "str", "bytes", "void", "longlong"]
            .iter()
            .filter_map(|kind| name.strip_prefix(kind))
            .any(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '_')),
        "torch.distributed.checkpoint.metadata" => class || name == "_MEM_FORMAT_ENCODING",
        "pathlib" | "pathlib._local" | "pathlib._abc" => class && name.ends_with("Path"),
        // A layer's state is data and further layers. What these modules import is none: modules (`F`), and the means
        // of annotations.
        _ => {
            let imported =
                ["Any", "Callable", "DeviceLikeType", "Function", "Iterator", "Literal", "Mapping"]
                    .iter()
                    .chain(&["Optional", "Protocol", "Self", "Sequence", "TypeVar", "Union", "TYPE_CHECKING"])
                    .any(|other| *other == name);
            let layer = name.len() > 1 && !imported;
            class && layer && (module.starts_with("torch.nn.modules.") || module == "torch.nn.modules")
        }
    }
}

/// Whether `name` could be defined in a module of its own: not a path of attributes, which leads through what a module
/// imports, nor the name of something dangerous that it may have imported.
pub(crate) fn may_be_own(name: &str) -> bool {
    let builtin = |(module, names, _): &(&str, &[&str], &str)| *module == "builtins" && names.contains(&name);
    !name.contains('.')
        && !DANGEROUS_STEPS.contains(&name)
        && !DANGEROUS_NAMES.iter().any(builtin)
        && !DANGEROUS_MODULES.iter().any(|(module, _)| *module == name)
}

/// Whether `module` and `name` could be those of a Python object: what random bytes rarely spell.
pub(crate) fn is_plausible(module: &str, name: &str) -> bool {
    let identifier = |part: &str| {
        part.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    module.split('.').all(identifier) && name.split('.').all(identifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinguished() {
        for (module, name) in [
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "FloatStorage"),
            ("torch", "float8_e4m3fn"),
            ("torch.nn.modules.linear", "Linear"),
            ("__builtin__", "set"),
            ("numpy", "float64"),
            ("pathlib", "PosixPath"),
        ] {
            assert_eq!(classify(module, name), Class::Harmless, "{module}.{name}");
        }
        for (module, name) in [
            ("posix", "system"),
            ("os.path", "join"),
            ("__builtin__", "eval"),
            ("builtins", "getattr"),
            ("builtins", "getattr.__call__"),
            ("torch", "serialization.os.system"),
            ("torch.nn.modules.linear", "Linear.__init__.__globals__"),
            ("torch.serialization", "load"),
            ("collections", "OrderedDict.__class__"),
            ("torch.hub", "load"),
            ("functools", "partialmethod"),
        ] {
            assert!(matches!(classify(module, name), Class::Dangerous(_)), "{module}.{name}");
        }
        for (module, name) in [
            ("__main__", "Config"),
            ("os2", "system2"),
            ("torch", "floatish"),
            ("torch.nn.modules.linear", "init"),
            ("torch.nn.modules.activation", "F"),
            ("torch.nn.modules.module", "Union"),
            ("builtins", "print"),
            ("torch.nn.modulesque", "Linear"),
        ] {
            assert_eq!(classify(module, name), Class::Unknown, "{module}.{name}");
        }
    }
}
