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
        "arccos arccosh arcsin arcsinh arctan arctanh cbrt cosh exp2 hypot logaddexp mean nanmean reciprocal sinh std var",
    ),
    (
        "torch.nn.init",
        "constant_ dirac_ eye_ kaiming_normal_ kaiming_uniform_ normal_ ones_ orthogonal_ sparse_ trunc_normal_ uniform_ \
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
