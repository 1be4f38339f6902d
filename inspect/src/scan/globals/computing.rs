//! Functions that compute with numbers, arrays and tensors, and classes and members of the standard library and of PyTorch that
//! are data, by module.

/// Functions of Python's `operator` that compute a value of the size of what they get.
const OPERATOR: &str = "abs add and_ eq floordiv ge gt index inv invert is_ is_not le lt ne neg not_ or_ pos sub truediv truth xor";

/// Names between spaces.
pub(super) const COMPUTING: &[(&str, &str)] = &[
    (
        "math",
        "acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist erf erfc exp exp2 expm1 fabs \
         factorial floor fma fmod frexp fsum gamma gcd hypot isclose isfinite isinf isnan isqrt lcm ldexp lgamma log log10 \
         log1p log2 modf nextafter perm pow prod radians remainder sin sinh sqrt sumprod tan tanh trunc ulp",
    ),
    ("operator", OPERATOR),
    ("_operator", OPERATOR),
    // Means are quotients: what is no number has none.
    (
        "numpy",
        "all any arccos arccosh arcsin arcsinh arctan arctanh argmax argmin argsort cbrt concatenate cosh count_nonzero exp2 hypot \
         logaddexp mean nanmean nanstd nanvar ravel reciprocal reshape sinh sort stack std transpose var",
    ),
    // What these give may be an object that an array holds (`shared.rs`).
    ("numpy", "amax amin max maximum median min minimum nanmax nanmin nansum prod sum"),
    (
        "torch.functional",
        "atleast_1d atleast_2d atleast_3d block_diag broadcast_shapes broadcast_tensors cartesian_prod cdist chain_matmul einsum \
         meshgrid norm split stft tensordot unravel_index",
    ),
    ("torch._lowrank", "pca_lowrank svd_lowrank"),
    (
        "torch.nn.functional",
        "_threshold adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices \
         fractional_max_pool2d_with_indices fractional_max_pool3d_with_indices grouped_mm linear_cross_entropy lp_pool3d \
         max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices scaled_addmm scaled_addmm_ scaled_grouped_mm \
         scaled_mm upsample_bilinear upsample_nearest",
    ),
    (
        "torch.signal.windows.windows",
        "bartlett blackman cosine exponential gaussian general_cosine general_hamming hamming hann kaiser nuttall",
    ),
    ("torch.sparse", "sum"),
    ("torch", "is_tensor is_storage"),
    ("torch.nn.utils.clip_grad", "clip_grad_norm_ clip_grad_value_"),
    (
        "torch.nn.init",
        "calculate_gain constant_ dirac_ eye_ kaiming_normal_ kaiming_uniform_ normal_ ones_ orthogonal_ sparse_ trunc_normal_ uniform_ \
         xavier_normal_ xavier_uniform_ zeros_",
    ),
    ("torch.optim.lr_scheduler", "CyclicLR"),
    // What is left of a hook that was registered: its number.
    ("torch.utils.hooks", "RemovableHandle"),
    ("torch.distributions.bernoulli", "Bernoulli"),
    ("torch.distributions.beta", "Beta"),
    ("torch.distributions.binomial", "Binomial"),
    ("torch.distributions.categorical", "Categorical"),
    ("torch.distributions.cauchy", "Cauchy"),
    ("torch.distributions.dirichlet", "Dirichlet"),
    ("torch.distributions.exponential", "Exponential"),
    ("torch.distributions.gamma", "Gamma"),
    ("torch.distributions.geometric", "Geometric"),
    ("torch.distributions.half_normal", "HalfNormal"),
    ("torch.distributions.laplace", "Laplace"),
    ("torch.distributions.log_normal", "LogNormal"),
    ("torch.distributions.mixture_same_family", "MixtureSameFamily"),
    ("torch.distributions.multinomial", "Multinomial"),
    ("torch.distributions.multivariate_normal", "MultivariateNormal"),
    ("torch.distributions.normal", "Normal"),
    ("torch.distributions.one_hot_categorical", "OneHotCategorical"),
    ("torch.distributions.poisson", "Poisson"),
    ("torch.distributions.studentT", "StudentT"),
    ("torch.distributions.uniform", "Uniform"),
    ("string", "Template"),
    // Members of enumerations, by their values.
    ("http", "HTTPMethod HTTPStatus"),
    ("signal", "Handlers Sigmasks Signals"),
    ("uuid", "SafeUUID"),
    (
        "builtins",
        "BaseExceptionGroup BlockingIOError BrokenPipeError BufferError BytesWarning ChildProcessError ConnectionAbortedError \
         ConnectionError ConnectionRefusedError ConnectionResetError DeprecationWarning EncodingWarning EnvironmentError \
         ExceptionGroup FutureWarning GeneratorExit IOError ImportError ImportWarning IndentationError InterruptedError \
         IsADirectoryError MemoryError ModuleNotFoundError NotADirectoryError PendingDeprecationWarning ProcessLookupError \
         RecursionError ReferenceError ResourceWarning RuntimeWarning StandardError StopAsyncIteration SyntaxError \
         SyntaxWarning SystemError SystemExit TabError UnboundLocalError UnicodeDecodeError UnicodeEncodeError UnicodeError \
         UnicodeTranslateError UnicodeWarning UserWarning Warning",
    ),
];

/// Whether `module.name` is one of them.
pub(super) fn computes(module: &str, name: &str) -> bool {
    COMPUTING
        .iter()
        .any(|(of, names)| *of == module && names.split_ascii_whitespace().any(|known| known == name))
}
