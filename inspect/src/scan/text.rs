//! TorchScript's code, which is executed as text.

/// Words in the names of operators that reach files, processes or the network: `aten::from_file`,
/// `torchaudio::sox_io_save_audio_file`, `prim::rpc_async`.
const REACHING: [&str; 16] = [
    "file", "files", "save", "load", "read", "write", "open", "export", "import", "exec", "system", "sox",
    "ffmpeg", "io", "rpc", "url",
];

/// Libraries of operators that come with PyTorch.
const OPERATORS: [&str; 13] = [
    "aten",
    "prim",
    "prims",
    "quantized",
    "sparse",
    "mkldnn",
    "mkldnn_prepacked",
    "prepacked",
    "xnnpack",
    "torchvision",
    "torchaudio",
    "inductor",
    "_quantized",
];

/// Libraries of classes that come with PyTorch and compute (`torch.classes`).
const CLASSES: [&str; 9] =
    ["quantized", "sparse", "rnn", "xnnpack", "mkldnn", "mkldnn_prepacked", "metal", "vulkan", "cuda"];

/// What making or using the class at `path` does, if it is one of a library's in C++: `__torch__.torch.classes.library.Class`.
pub(super) fn native_class(path: &[&str]) -> Option<String> {
    let rest = path.strip_prefix(&["__torch__", "torch", "classes"])?;
    match rest.first() {
        Some(library) if CLASSES.contains(library) => None,
        Some(library) => Some(format!("uses the classes of the library `{}`", super::calls::cut(library))),
        None => Some("uses `torch.classes` other than by its classes".to_string()),
    }
}

/// Whether an operator's name says that it reaches files, processes or the network.
pub(super) fn reaches_out(name: &str) -> bool {
    name.split('_').any(|word| REACHING.contains(&word.to_lowercase().as_str()))
}

/// What the operator called `name` does beyond arithmetic: `aten::save`, of the library and its operator.
pub(super) fn operator(name: &str) -> Option<String> {
    if let Some(what) = native_class(&name.split('.').collect::<Vec<_>>()) {
        return Some(what);
    }
    let (library, operator) = name.split_once("::").filter(|(library, operator)| {
        let word = |text: &str| text.chars().all(|c| c.is_alphanumeric() || c == '_');
        word(library) && !library.is_empty() && !operator.is_empty()
    })?;
    let shown = super::calls::cut(name);
    if !OPERATORS.contains(&library) {
        return Some(format!("calls the operator `{shown}` of another library"));
    }
    reaches_out(operator).then(|| format!("{shown} reads or writes files, or reaches out otherwise"))
}

/// What TorchScript code does beyond arithmetic, with the offset of each. Operators of ATen are functions of `torch` in
/// serialized code, and those of all libraries are in `ops`.
pub(super) fn script(code: &str) -> Vec<(u64, String)> {
    const MOST: usize = 100;
    let mut found = Vec::new();
    for (at, path) in paths(code) {
        let reaches = |name: &&str| reaches_out(name);
        let shown = || super::calls::cut(&path.join("."));
        let what = match *path {
            ["__torch__", ..] => match native_class(&path) {
                Some(what) => what,
                None => continue,
            },
            ["torch"] | ["ops"] | ["ops", _] => {
                format!("uses `{}` other than by calling its operators", shown())
            }
            ["ops", library, ..] if !OPERATORS.contains(&library) => {
                format!("calls the operators of `{}`", super::calls::cut(library))
            }
            ["torch", ref names @ ..] | ["ops", _, ref names @ ..] if names.iter().any(reaches) => {
                format!("{} reads or writes files, or reaches out otherwise", shown())
            }
            _ => continue,
        };
        found.push((at, what));
        if found.len() == MOST {
            break;
        }
    }
    found
}

/// The dotted names in `code` outside of comments and strings, however they are spaced, with the offset of each.
pub(super) fn paths(code: &str) -> Vec<(u64, Vec<&str>)> {
    let mut found: Vec<(u64, Vec<&str>)> = Vec::new();
    // Whether the last token is a dot, and whether it is a name that a dot would continue.
    let (mut dot, mut named) = (false, false);
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let at = code.len() - rest.len();
        let blank = |c: char| c.is_whitespace() || c == '\\';
        let word = |c: char| c.is_alphanumeric() || c == '_';
        if blank(first) {
            rest = rest.trim_start_matches(blank);
        } else if first == '#' {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if first == '"' || first == '\'' {
            rest = &rest[string(rest)..];
            (dot, named) = (false, false);
        } else if word(first) {
            let name = &rest[..rest.find(|c| !word(c)).unwrap_or(rest.len())];
            match found.last_mut() {
                Some((_, path)) if dot && named => path.push(name),
                // The attribute of a value begins no path.
                _ if dot => found.push((at as u64, vec!["", name])),
                _ => found.push((at as u64, vec![name])),
            }
            rest = &rest[name.len()..];
            (dot, named) = (false, true);
        } else {
            named = named && first == '.';
            dot = first == '.';
            rest = &rest[first.len_utf8()..];
        }
    }
    found
}

/// The length of the string that `text` begins with, its quotes included; one in single quotes ends with its line.
pub(super) fn string(text: &str) -> usize {
    let quote = &text[..1];
    let long = text.starts_with(&quote.repeat(3));
    let end = if long { quote.repeat(3) } else { quote.to_string() };
    let mut at = end.len();
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(&end) {
            return at + end.len();
        }
        if !long && rest.starts_with('\n') {
            return at;
        }
        let escaped = rest.starts_with('\\');
        at += rest.chars().take(1 + usize::from(escaped)).map(char::len_utf8).sum::<usize>();
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_reaches_files_is_distinguished_from_code_that_computes() {
        let code = "def forward(self, x: Tensor) -> Tensor:\n  y = torch.add(x, 1)\n  _0 = ops.prim.data(y)\n  self.torch.save(y)\n";
        assert_eq!(script(code), []);
        let code = "  torch.save(x, \"/etc/passwd\")\n  z = ops.evil.run(x)\n";
        let found = script(code);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].0, 2);
        for code in [
            "torch.save (x)",
            "y = torch . save(x)",
            "y = torch .\\\n  save(x)",
            "ops . evil.run(x)",
            "ops.aten.save(x, \"p\")",
            "ops.aten.from_file(\"p\", False, 4)",
            "ops.torchaudio.sox_io_save_audio_file(\"p\", x)",
            "t = torch\n  t.save(x)",
            "a = 'open\n  torch.load(\"p\")",
            "ops.prim.rpc_async(x)",
            "x = __torch__.torch.classes.evil.Thing.__new__(__torch__.torch.classes.quantized.Linear)",
            "x : __torch__ . torch.classes.dist_c10d.FileStore = y",
            "x = __torch__.torch.classes",
        ] {
            assert_eq!(script(code).len(), 1, "{code}");
        }
        for code in [
            "x = \"torch.save(y)\" # torch.load(z)",
            "f(x).torch.save(y)",
            "self.ops.evil.run(x)",
            "x : __torch__.torch.classes.quantized.Conv2dPackedParamsBase = y",
            "def f(self: __torch__.torch.nn.Net) -> Tensor: return torch.unread(x)",
            "x = \"\"\"ops.evil\n\"\"\"",
        ] {
            assert_eq!(script(code), [], "{code}");
        }
    }
}
