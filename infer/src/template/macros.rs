//! Macros that take any arguments: one that uses `varargs` or `kwargs` gets a parameter for each here, and is called by a
//! function that puts the rest of the arguments there, as Jinja2 does (`Macro.__call__` of `runtime.py`).

use std::collections::HashMap;
use std::sync::Arc;

use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Tuple, Value, from_args};
use minijinja::{Error as JinjaError, State};

use super::jinja::wrong;
use super::rewrite::{Token, tokens};

/// The function that calls such macros.
pub(super) const ANY: &str = "__any";
/// What they find the rest of their arguments in, and what is in it without any.
const REST: [(&str, &str); 2] = [(VARARGS, "()"), (KWARGS, "{}")];
const VARARGS: &str = "varargs";
const KWARGS: &str = "kwargs";

/// The macros of a template that use the rest of their arguments, and which parts of it.
#[derive(Default)]
pub(super) struct Macros(HashMap<String, [bool; 2]>);

impl Macros {
    /// Those that are begun, used and ended in `tags`, the insides of a template's tags in order.
    pub fn of<'t>(tags: impl Iterator<Item = &'t str>) -> Self {
        let mut found = Macros::default();
        let mut open: Vec<(String, [bool; 2])> = Vec::new();
        for tag in tags {
            let tokens = tokens(tag);
            match tokens.as_slice() {
                [first, ..] if first.is_name("endmacro") => {
                    if let Some((name, uses)) =
                        open.pop().filter(|(name, uses)| !name.is_empty() && uses.contains(&true))
                    {
                        found.0.insert(name, uses);
                    }
                }
                [first, name, parameters @ ..] if first.is_name("macro") => {
                    // Where it has one of its own, that is none of the rest.
                    let is_own =
                        parameters.iter().any(|token| REST.iter().any(|(rest, _)| token.is_name(rest)));
                    open.push((if is_own { String::new() } else { name.text.to_string() }, [false; 2]));
                }
                tokens => {
                    if let Some((_, uses)) = open.last_mut() {
                        for (use_of, (rest, _)) in uses.iter_mut().zip(REST) {
                            *use_of |= uses_name(tokens, rest);
                        }
                    }
                }
            }
        }
        found
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The inside of a tag with the parameters of such a macro, and with calls of them by the function.
    pub fn rewritten(&self, text: &str) -> String {
        let tokens = tokens(text);
        let (mut out, mut at) = (String::with_capacity(text.len()), 0);
        let begins = tokens.first().is_some_and(|token| token.is_name("macro"));
        let known = |token: &Token<'_>| self.0.get(token.text).filter(|_| token.is_any_name());
        if let Some(uses) = tokens.get(1).filter(|_| begins).and_then(known) {
            let Some(close) = tokens.iter().rfind(|token| token.is(")")) else { return text.to_string() };
            let is_bare = tokens.get(3).is_some_and(|token| token.start == close.start);
            out.push_str(&text[..close.start]);
            let rest = REST.iter().zip(uses).filter(|(_, used)| **used);
            for (i, ((name, empty), _)) in rest.enumerate() {
                out.push_str(if i == 0 && is_bare { "" } else { ", " });
                out.push_str(&format!("{name}={empty}"));
            }
            at = close.start;
        } else {
            for (i, token) in tokens.iter().enumerate() {
                let is_member = i.checked_sub(1).is_some_and(|before| tokens[before].is("."));
                let is_called = tokens.get(i + 1).is_some_and(|next| next.is("("));
                if is_member || !is_called || known(token).is_none() {
                    continue;
                }
                let is_bare = tokens.get(i + 2).is_some_and(|next| next.is(")"));
                out.push_str(&text[at..token.start]);
                out.push_str(&format!("{ANY}({}{}", token.text, if is_bare { "" } else { ", " }));
                at = tokens[i + 1].end();
            }
        }
        out.push_str(&text[at..]);
        out
    }
}

/// Whether the variable `name` is used, and not a member or an argument called so.
fn uses_name(tokens: &[Token<'_>], name: &str) -> bool {
    let is_use = |(i, token): (usize, &Token<'_>)| {
        let before = i.checked_sub(1).map(|before| &tokens[before]);
        let is_argument = tokens.get(i + 1).is_some_and(|next| next.is("="));
        token.is_name(name) && !is_argument && !before.is_some_and(|before| before.is("."))
    };
    tokens.iter().enumerate().any(is_use)
}

/// Calls its first argument, a macro, with the others.
#[derive(Debug)]
pub(super) struct Any;

impl Object for Any {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, JinjaError> {
        let (called, given, kwargs): (Value, Rest<Value>, Kwargs) = from_args(args)?;
        let names = called.get_attr("arguments")?;
        let Ok(names) = names.try_iter() else { return called.call(state, &args[1..]) };
        let names: Vec<String> = names.map(|name| name.to_string()).collect();
        let takes = |rest: &str| names.iter().any(|name| name == rest);
        let own =
            names.iter().position(|name| REST.iter().any(|(rest, _)| rest == name)).unwrap_or(names.len());
        let (placed, more) = given.split_at(given.len().min(own));
        let mut named: Vec<(String, Value)> = Vec::new();
        let mut others: Vec<(String, Value)> = Vec::new();
        let takes_caller = called.get_attr("caller")?.is_true();
        for key in kwargs.args() {
            let value: Value = kwargs.get(key)?;
            let is_own = names[placed.len().min(own)..own].iter().any(|name| name == key);
            match is_own || key == "caller" && takes_caller {
                true => named.push((key.to_string(), value)),
                false => others.push((key.to_string(), value)),
            }
        }
        if !more.is_empty() && !takes(VARARGS) {
            return Err(wrong("a macro is given too many arguments"));
        }
        if let Some((key, _)) = others.first().filter(|_| !takes(KWARGS)) {
            return Err(wrong(format!("a macro has no argument `{key}`")));
        }
        if takes(VARARGS) {
            named.push((VARARGS.into(), Value::from(Tuple::from(more))));
        }
        if takes(KWARGS) {
            let others: Kwargs = others.into_iter().collect();
            named.push((KWARGS.into(), minijinja::functions::dict(None, others)?));
        }
        let mut all = placed.to_vec();
        all.push(named.into_iter().collect::<Kwargs>().into());
        called.call(state, &all)
    }
}
