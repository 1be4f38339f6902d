//! Programs that `torch.export` wrote: sizes that SymPy evaluates, and descriptions of arguments that name classes
//! (`torch/_export/serde/serialize.py`, `torch/utils/_pytree.py`).

use serde_json::{Map, Value};

use super::configuration::Named;
use super::json;
use super::source::{Texts, beyond};

/// What PyTorch and SymPy write calls of (`torch/utils/_sympy/functions.py`, `sympy.srepr`).
const CALLED: &str = "Symbol Dummy Integer Rational Float Add Mul Pow Mod Max Min Abs sign floor ceiling frac And Or Not Xor \
    Implies Eq Ne Lt Le Gt Ge Equality Unequality StrictLessThan StrictGreaterThan LessThan GreaterThan Piecewise \
    ExprCondPair Tuple ITE sqrt cbrt log exp sin cos tan sinh cosh tanh asin acos atan asinh acosh atanh atan2 gcd lcm \
    Half One Zero NegativeOne Infinity NegativeInfinity ComplexInfinity NaN BooleanTrue BooleanFalse IntInfinity \
    NegativeIntInfinity FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt FloorToInt CeilDiv IntTrueDiv \
    FloatTrueDiv LShift RShift IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat \
    FloatPow PowByNatural Identity int float bool min max abs";
/// The beginnings of the names of functions that PyTorch does not evaluate.
const FAMILIES: [&str; 2] = ["OpaqueUnaryFn_", "BitwiseFn_"];
/// Functions of Python's `operator` by which sizes are computed in a graph.
const COMPUTING: &str = "add sub mul truediv floordiv mod pow neg pos abs eq ne lt le gt ge and_ or_ xor not_ lshift rshift \
    inv getitem index";
/// The deepest nesting of texts of JSON in each other.
const DEEPEST: usize = 8;

/// What an object of an exported program, of which these are the `entries`, has PyTorch evaluate or import.
pub(super) fn object(entries: &Map<String, Value>, found: &mut Vec<Named>) {
    let text = |key: &str| entries.get(key).and_then(Value::as_str);
    let called =
        |name: &str| CALLED.split_ascii_whitespace().any(|known| known == name) || is_of_family(name);
    if let Some(size) = text("expr_str")
        && let Some(what) = beyond(size, Texts::Words, &called)
    {
        found.push(Named::Source(format!("has PyTorch evaluate more than arithmetic for a size: {what}")));
    }
    names(entries, found);
    for (key, value) in entries {
        if let Some(text) = value.as_str().filter(|text| is_spec(key, text)) {
            spec(text, 0, found);
        }
    }
}

fn is_of_family(name: &str) -> bool {
    let word = |rest: &str| rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    FAMILIES.iter().filter_map(|family| name.strip_prefix(family)).any(word)
}

/// Whether a graph computes a size by the function `path`.
pub(super) fn computes(path: &str) -> bool {
    match path.split_once('.') {
        Some(("_operator", name)) => COMPUTING.split_ascii_whitespace().any(|known| known == name),
        _ => false,
    }
}

/// Whether `text` describes arguments, in JSON of its own.
fn is_spec(key: &str, text: &str) -> bool {
    let described = matches!(key, "in_spec" | "out_spec" | "treespec" | "context");
    described && text.trim_start().starts_with(['[', '{'])
        || ["__enum__", "default_factory_module"].iter().any(|mark| text.contains(mark))
}

/// What the description `text` names.
fn spec(text: &str, depth: usize, found: &mut Vec<Named>) {
    match json::read(text.as_bytes()) {
        Ok(value) if depth < DEEPEST => walk(&value, depth, found),
        Ok(_) => found.push(Named::Beside("has a description of arguments that is nested too deeply".into())),
        // Nobody reads it.
        Err(_) => {}
    }
}

fn walk(value: &Value, depth: usize, found: &mut Vec<Named>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, depth, found)),
        Value::Object(entries) => {
            names(entries, found);
            entries.values().for_each(|value| walk(value, depth, found));
        }
        Value::String(text) if text.trim_start().starts_with(['[', '{']) => spec(text, depth + 1, found),
        _ => {}
    }
}

/// Modules that reading a description imports, each with what is taken from it.
fn names(entries: &Map<String, Value>, found: &mut Vec<Named>) {
    let text = |key: &str| entries.get(key).and_then(Value::as_str);
    let mut code = |module: &str, name: &str, key: &str| {
        found.push(Named::Code { module: module.into(), name: name.into(), key: key.into() });
    };
    if let Some(module) = text("default_factory_module") {
        code(module, text("default_factory_name").unwrap_or("*"), "default_factory_module");
    }
    if entries.contains_key("__enum__")
        && let Some(path) = text("fqn")
    {
        let (module, name) = path.split_once(':').unwrap_or((path, "*"));
        code(module, name, "__enum__");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::configuration::named;
    use super::*;

    fn found(value: Value) -> Vec<Named> {
        named(&value, object)
    }

    /// As `sympy.srepr` and PyTorch write them.
    #[test]
    fn sizes_that_are_arithmetic_are_plain_and_code_in_them_is_found() {
        for size in [
            "Symbol('s77', positive=True, integer=True)",
            "Add(floor(Mul(Rational(1, 3), Pow(Symbol('s0', positive=True, integer=True), Integer(2)))), Integer(1))",
            "floor(Mul(Float('0.40000000000000002', precision=53), Symbol('s0')))",
            "Piecewise(ExprCondPair(Symbol('s0'), StrictGreaterThan(Symbol('s0'), Integer(2))), ExprCondPair(Integer(3), true))",
            "OpaqueUnaryFn_sqrt(Symbol('s0'))",
            "-oo",
            "int_oo",
            "2*s0 // 3 + Max(1, s1)**2",
            "(s0 - 1)*(s1 + 2) % 3",
            "Eq(PythonMod(s0, 8), 0)",
        ] {
            assert_eq!(found(json!({"expr_str": size})), [], "{size}");
        }
        for size in [
            "__import__('os').system('id') or Symbol('s0')",
            "eval('1')",
            "Max('eval(1)')",
            "s0.func(1)",
            "(eval)('1')",
            "Symbol('s0')(1)",
            "sympify('1')",
            "lambda: 1",
            "exec\n('1')",
            "OpaqueUnaryFn_x.y(1)",
            "preview(s0)",
        ] {
            assert!(matches!(found(json!({"expr_str": size}))[..], [Named::Source(_)]), "{size}");
        }
    }

    #[test]
    fn classes_in_descriptions_are_found_however_they_are_nested() {
        let code = |module: &str, name: &str, key: &str| Named::Code {
            module: module.into(),
            name: name.into(),
            key: key.into(),
        };
        let factory = json!({"default_factory_module": "mine", "default_factory_name": "F"});
        let within = json!([1, {"type": "collections.defaultdict", "context": factory}]).to_string();
        assert_eq!(found(json!({"in_spec": within})), [code("mine", "F", "default_factory_module")]);
        let context = json!([{"__enum__": true, "fqn": "mine:E.F", "name": "A"}]).to_string();
        let within = json!([1, {"type": "builtins.dict", "context": context}]).to_string();
        assert_eq!(found(json!({"out_spec": within})), [code("mine", "E.F", "__enum__")]);
        let spelt = within.replace("__enum__", "__\\u0065num__");
        assert_eq!(found(json!({"in_spec": spelt})).len(), 1);
        assert_eq!(found(json!({"in_spec": "[1, {\"type\": null, \"context\": null}]"})), []);
    }
}
