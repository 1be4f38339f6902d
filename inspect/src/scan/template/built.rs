//! Names of attributes that a template computes: a whole template is parsed, and what its variables hold is followed, since
//! a name may be put together in one place and used in another.

use std::collections::HashMap;

use minijinja::machinery::ast::{BinOpKind, Call, CallArg, Expr, Filter, Macro, Stmt};
use minijinja::machinery::parse;
use minijinja::value::ValueKind;

use super::{LOOKUPS, NUMBERS};

/// How often variables are followed through each other; templates that people write settle at the second time.
const MOST_PASSES: usize = 40;
/// Filters and methods that make new text of what they get.
const MAKE_TEXT: [&str; 17] = [
    "join",
    "replace",
    "format",
    "string",
    "lower",
    "upper",
    "title",
    "capitalize",
    "trim",
    "strip",
    "center",
    "indent",
    "reverse",
    "truncate",
    "format_map",
    "translate",
    "decode",
];
/// What Jinja defines and no chat template needs; each leads to the globals of its module.
const LEADING: [&str; 3] = ["lipsum", "cycler", "joiner"];

/// What is known of arguments of calls, and of items of loops, which have names that no variable has.
const PASSED: &str = "(passed)";
const ITEMS: &str = "(items)";

/// What an expression may hold, the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    Number,
    /// What the template was given, or made of that.
    #[default]
    Data,
    /// A list of texts that the template contains.
    Texts,
    /// Text that the template contains.
    Text,
    /// Text that it puts together.
    Built,
}

/// Why `template` is dangerous as a whole, if it is.
///
/// # Errors
/// The reason why it could not be parsed.
pub(super) fn reaches(template: &str) -> Result<Option<String>, String> {
    let template = without_marks(template);
    let root = parse(&template, "chat_template", Default::default()).map_err(|error| error.to_string())?;
    let Stmt::Template(root) = root else { return Ok(None) };
    let mut judge = Judge::default();
    for _ in 0..MOST_PASSES {
        let known = judge.known.clone();
        judge.statements(&root.children);
        if judge.found.is_some() || judge.known == known {
            return Ok(judge.found);
        }
    }
    Err("its variables depend on each other too often".into())
}

/// Without `{% generation %}` and its end, which mark what an assistant said and which transformers' templates have.
fn without_marks(template: &str) -> String {
    let mut kept = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let inner = &rest[start + 2..];
        let end = inner.find("%}").unwrap_or(inner.len());
        let word = inner[..end].trim_matches(['-', '+', ' ', '\t', '\n', '\r']);
        kept += &rest[..start];
        if !matches!(word, "generation" | "endgeneration") {
            kept += &rest[start..(start + 2 + end + 2).min(rest.len())];
        }
        rest = inner.get(end + 2..).unwrap_or_default();
    }
    kept + rest
}

/// What is known so far. Variables are told apart by name alone, wherever they are set; attributes of namespaces have a dot
/// before theirs.
#[derive(Default)]
struct Judge {
    known: HashMap<String, Holds>,
    /// Parameters of macros.
    macros: HashMap<String, Vec<String>>,
    found: Option<String>,
}

impl Judge {
    fn statements(&mut self, statements: &[Stmt<'_>]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn statement(&mut self, statement: &Stmt<'_>) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitExpr(emitted) => {
                self.holds(&emitted.expr);
            }
            Stmt::ForLoop(each) => {
                let items = part_of(self.holds(&each.iter));
                self.learn(ITEMS.into(), items);
                // What `loop(…)` passes to the loop that it is in.
                let items = if each.recursive { items.max(self.known(PASSED)) } else { items };
                self.assign(&each.target, items);
                if let Some(filter) = &each.filter_expr {
                    self.holds(filter);
                }
                self.statements(&each.body);
                self.statements(&each.else_body);
            }
            Stmt::IfCond(condition) => {
                self.holds(&condition.expr);
                self.statements(&condition.true_body);
                self.statements(&condition.false_body);
            }
            Stmt::WithBlock(with) => {
                for (target, value) in &with.assignments {
                    let value = self.holds(value);
                    self.assign(target, value);
                }
                self.statements(&with.body);
            }
            Stmt::Set(set) => {
                let value = self.holds(&set.expr);
                self.assign(&set.target, value);
            }
            Stmt::SetBlock(set) => {
                if let Some(filter) = &set.filter {
                    self.holds(filter);
                }
                self.statements(&set.body);
                self.assign(&set.target, Holds::Built);
            }
            Stmt::AutoEscape(block) => {
                self.holds(&block.enabled);
                self.statements(&block.body);
            }
            Stmt::FilterBlock(block) => {
                self.holds(&block.filter);
                self.statements(&block.body);
            }
            Stmt::Macro(declared) => self.declare(declared),
            Stmt::CallBlock(block) => {
                self.call(&block.call);
                self.declare(&block.macro_decl);
            }
            Stmt::Do(done) => {
                self.call(&done.call);
            }
            Stmt::Block(block) => self.statements(&block.body),
            Stmt::Import(_) | Stmt::FromImport(_) | Stmt::Extends(_) | Stmt::Include(_) => {
                self.find("it takes in another file");
            }
            _ => {}
        }
    }

    fn find(&mut self, what: &str) {
        self.found.get_or_insert_with(|| what.to_string());
    }

    fn declare(&mut self, declared: &Macro<'_>) {
        let name = |parameter: &Expr<'_>| match parameter {
            Expr::Var(variable) => Some(variable.id.to_string()),
            _ => None,
        };
        let parameters: Vec<String> = declared.args.iter().filter_map(name).collect();
        let with_defaults = parameters.len().saturating_sub(declared.defaults.len());
        for (parameter, default) in parameters[with_defaults..].iter().zip(&declared.defaults) {
            let value = self.holds(default);
            self.learn(parameter.clone(), value);
        }
        self.macros.insert(declared.name.to_string(), parameters);
        self.learn(declared.name.to_string(), Holds::Built);
        self.statements(&declared.body);
    }

    fn learn(&mut self, name: String, value: Holds) {
        let known = self.known.entry(name).or_insert(value);
        *known = value.max(*known);
    }

    fn assign(&mut self, target: &Expr<'_>, value: Holds) {
        match target {
            Expr::Var(variable) => self.learn(variable.id.to_string(), value),
            Expr::GetAttr(attribute) => self.learn(format!(".{}", attribute.name), value),
            Expr::List(parts) => parts.items.iter().for_each(|part| self.assign(part, value)),
            Expr::Tuple(parts) => parts.items.iter().for_each(|part| self.assign(part, value)),
            _ => {}
        }
    }

    fn known(&self, name: &str) -> Holds {
        self.known.get(name).copied().unwrap_or_default()
    }

    /// What `expr` may hold. Notes what leads out of the template on the way.
    fn holds(&mut self, expr: &Expr<'_>) -> Holds {
        match expr {
            Expr::Var(variable) => {
                if LEADING.contains(&variable.id) {
                    self.find(&format!("`{}`, which no chat template needs", variable.id));
                }
                match variable.id {
                    "varargs" | "kwargs" => self.known(PASSED),
                    name => self.known(name),
                }
            }
            Expr::Const(constant) => match constant.value.kind() {
                ValueKind::String => Holds::Text,
                ValueKind::Number => Holds::Number,
                _ => Holds::Data,
            },
            Expr::Slice(slice) => {
                let parts = [&slice.start, &slice.stop, &slice.step];
                parts.into_iter().flatten().for_each(|part| {
                    self.holds(part);
                });
                match self.holds(&slice.expr) {
                    Holds::Text => Holds::Built,
                    other => other,
                }
            }
            Expr::UnaryOp(unary) => {
                self.holds(&unary.expr);
                Holds::Number
            }
            Expr::BinOp(binary) => {
                let (left, right) = (self.holds(&binary.left), self.holds(&binary.right));
                let worst = left.max(right);
                match binary.op {
                    BinOpKind::Concat => Holds::Built,
                    // Text and a number have no sum.
                    BinOpKind::Add if left.min(right) == Holds::Number => Holds::Number,
                    BinOpKind::Add | BinOpKind::Mul if worst >= Holds::Texts => Holds::Built,
                    BinOpKind::Rem if left >= Holds::Texts => Holds::Built,
                    BinOpKind::Add | BinOpKind::Mul | BinOpKind::ScAnd | BinOpKind::ScOr => worst,
                    _ => Holds::Number,
                }
            }
            Expr::Compare(compared) => {
                self.holds(&compared.expr);
                compared.ops.iter().for_each(|op| {
                    self.holds(&op.expr);
                });
                Holds::Number
            }
            Expr::IfExpr(choice) => {
                self.holds(&choice.test_expr);
                let yes = self.holds(&choice.true_expr);
                choice.false_expr.as_ref().map_or(yes, |no| yes.max(self.holds(no)))
            }
            Expr::Filter(filter) => self.filter(filter),
            Expr::Test(test) => {
                self.holds(&test.expr);
                self.arguments(&test.args);
                Holds::Number
            }
            Expr::GetAttr(attribute) => {
                let of = self.holds(&attribute.expr);
                match &attribute.expr {
                    Expr::Var(variable) if variable.id == "kwargs" => self.known(PASSED),
                    Expr::Var(variable) if variable.id == "loop" => match attribute.name {
                        "previtem" | "nextitem" => self.known(ITEMS),
                        _ => Holds::Number,
                    },
                    _ => self.known(&format!(".{}", attribute.name)).max(of.min(Holds::Data)),
                }
            }
            Expr::GetItem(item) => {
                if self.holds(&item.subscript_expr) == Holds::Built {
                    self.find("a name that it computes");
                }
                part_of(self.holds(&item.expr))
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => listed(self.worst(&list.items)),
            Expr::Tuple(tuple) => listed(self.worst(&tuple.items)),
            Expr::Map(map) => {
                let keys = self.worst(&map.keys);
                listed(keys.max(self.worst(&map.values)))
            }
        }
    }

    fn worst(&mut self, items: &[Expr<'_>]) -> Holds {
        items.iter().map(|item| self.holds(item)).max().unwrap_or(Holds::Data)
    }

    fn arguments(&mut self, arguments: &[CallArg<'_>]) -> Holds {
        let held = arguments.iter().map(|argument| match argument {
            CallArg::Pos(value)
            | CallArg::Kwarg(_, value)
            | CallArg::PosSplat(value)
            | CallArg::KwargSplat(value) => self.holds(value),
        });
        held.max().unwrap_or(Holds::Number)
    }

    fn filter(&mut self, filter: &Filter<'_>) -> Holds {
        // The filter of a block gets the text that the block writes.
        let of = filter.expr.as_ref().map_or(Holds::Built, |expr| self.holds(expr));
        let arguments = self.arguments(&filter.args);
        if filter.name == "attr" {
            self.find("attr");
        }
        if LOOKUPS.contains(&filter.name) {
            let chosen = filter.name == "map"
                && matches!(filter.args.first(), Some(CallArg::Pos(name)) if !matches!(name, Expr::Const(_)));
            let spread =
                filter.args.iter().any(|arg| matches!(arg, CallArg::PosSplat(_) | CallArg::KwargSplat(_)));
            if arguments == Holds::Built || chosen || spread {
                self.find("a name that it computes");
            }
        }
        if filter.name == "groupby" && of >= Holds::Texts {
            self.learn(".grouper".into(), Holds::Built);
        }
        match filter.name {
            name if NUMBERS.contains(&name) => Holds::Number,
            name if MAKE_TEXT.contains(&name) && of.max(arguments) >= Holds::Texts => Holds::Built,
            name if MAKE_TEXT.contains(&name) => of.max(Holds::Text),
            "default" | "d" => of.max(arguments),
            "first" | "last" | "random" | "min" | "max" => part_of(of),
            _ => of,
        }
    }

    fn call(&mut self, call: &Call<'_>) -> Holds {
        let arguments = self.arguments(&call.args);
        if !call.args.is_empty() {
            self.learn(PASSED.into(), arguments.max(part_of(arguments)));
        }
        match &call.expr {
            Expr::Var(function) => {
                self.holds(&call.expr);
                match function.id {
                    "range" => Holds::Number,
                    "namespace" | "dict" => {
                        let named = call.args.iter().any(|arg| matches!(arg, CallArg::Kwarg(..)));
                        for argument in &call.args {
                            if let CallArg::Kwarg(name, value) = argument {
                                let value = self.holds(value);
                                self.learn(format!(".{name}"), value);
                            }
                        }
                        // The keys of a dict are texts.
                        if function.id == "dict" && named { Holds::Texts } else { Holds::Data }
                    }
                    name => {
                        self.pass(name, &call.args);
                        self.known(name)
                    }
                }
            }
            Expr::GetAttr(method) => {
                let of = self.holds(&method.expr);
                if of == Holds::Built && matches!(method.name, "format" | "format_map") {
                    self.find("a format that it computes");
                }
                match &method.expr {
                    // What a block writes.
                    Expr::Var(variable) if variable.id == "self" => return Holds::Built,
                    Expr::Var(variable) if variable.id == "loop" && method.name == "cycle" => {
                        return arguments;
                    }
                    _ => {}
                }
                let text = of.max(arguments) >= Holds::Texts;
                match (MAKE_TEXT.contains(&method.name), text) {
                    (true, true) => Holds::Built,
                    (true, false) => Holds::Text,
                    (false, _) => of,
                }
            }
            other => self.holds(other),
        }
    }

    /// Hands `arguments` on to the parameters of the macro called `name`.
    fn pass(&mut self, name: &str, arguments: &[CallArg<'_>]) {
        let Some(parameters) = self.macros.get(name).cloned() else { return };
        for (i, argument) in arguments.iter().enumerate() {
            match argument {
                CallArg::Pos(value) => {
                    let value = self.holds(value);
                    if let Some(parameter) = parameters.get(i) {
                        self.learn(parameter.clone(), value);
                    }
                }
                CallArg::Kwarg(parameter, value) => {
                    let value = self.holds(value);
                    self.learn(parameter.to_string(), value);
                }
                CallArg::PosSplat(value) | CallArg::KwargSplat(value) => {
                    let value = self.holds(value);
                    parameters.iter().for_each(|parameter| self.learn(parameter.clone(), value));
                }
            }
        }
    }
}

/// A part of text is new text, an element of a list is not.
fn part_of(whole: Holds) -> Holds {
    match whole {
        Holds::Texts => Holds::Text,
        Holds::Text => Holds::Built,
        other => other,
    }
}

fn listed(item: Holds) -> Holds {
    if item == Holds::Text { Holds::Texts } else { item }
}
