//! Chat templates: Jinja. Expressions are looked at one by one, token by token, with strings as Python reads them; and the
//! whole is parsed, to follow names that are computed in one place and used in another.

mod built;

/// A token of an expression.
#[derive(Clone, Debug, PartialEq)]
enum Token<'t> {
    Word(&'t str),
    /// Decoded.
    Text(String),
    Sign(char),
}

/// The attributes that every attack on a template engine goes through.
const STEPS: [&str; 34] = [
    "__class__",
    "__mro__",
    "__base__",
    "__bases__",
    "__subclasses__",
    "__globals__",
    "__builtins__",
    "__import__",
    "__init__",
    "__getattribute__",
    "__dict__",
    "__code__",
    "_TemplateReference__context",
    // Of macros.
    "_environment",
    "_func",
    // Of functions, frames, generators and their like, which have no underscores in front.
    "func_globals",
    "func_code",
    "func_closure",
    "gi_frame",
    "gi_code",
    "gi_yieldfrom",
    "cr_frame",
    "cr_code",
    "cr_await",
    "ag_frame",
    "ag_code",
    "ag_await",
    "tb_frame",
    "f_back",
    "f_builtins",
    "f_code",
    "f_globals",
    "f_locals",
    "mro",
];

/// Names between double underscores that objects of Python's own have.
const OF_PYTHON: &str = "abs abstractmethods add aenter aexit aiter all alloc and anext annotations array array_interface await base bases \
     basicsize bool breakpointhook buffer builtin builtins bytes cached call cause ceil class class_getitem closure code \
     complex contains context copy debug deepcopy defaults del delattr delete delitem dict dictoffset dir displayhook \
     divmod doc enter eq excepthook exit file firstlineno flags float floor floordiv format fspath func future ge get \
     getattr getattribute getformat getinitargs getitem getnewargs getnewargs_ex getstate globals gt hash html iadd iand \
     import imul index init init_subclass instancecheck int interactivehook invert ior isabstractmethod isub itemsize iter \
     ixor kwdefaults le len length_hint loader lshift lt main missing mod module mro mul name ne neg new next notes \
     objclass or package path pos pow prepare qualname radd rand rdivmod reduce reduce_ex repr reversed rfloordiv rlshift \
     rmod rmul ror round rpow rrshift rshift rsub rtruediv rxor self self_class set set_name setattr setitem setstate \
     signature sizeof slots spec static_attributes stderr stdin stdout str sub subclasscheck subclasses subclasshook \
     suppress_context text_signature thisclass torch_function traceback truediv trunc type_params unraisablehook \
     vectorcalloffset version weakref weakrefoffset wrapped xor";

/// Filters that look up attributes by names that they get as strings.
const LOOKUPS: [&str; 9] =
    ["map", "selectattr", "rejectattr", "groupby", "sort", "sum", "unique", "min", "max"];
/// Filters that make a number, as an index may be.
const NUMBERS: [&str; 4] = ["int", "length", "count", "abs"];

/// What may make small letters of capital ones.
const LOWERING: [&str; 8] =
    ["lower", "casefold", "swapcase", "capitalize", "title", "replace", "translate", "encode"];

/// The most bytes of a template, tokens of an expression, and blocks in a template, that are parsed: what parses recurses.
const MOST_BYTES: usize = 1 << 20;
const MOST_TOKENS: usize = 1000;
const MOST_BRANCHES: usize = 300;

/// What a template may do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Template {
    Harmless,
    /// It leads out into Python's objects, by this.
    Reaches(String),
    /// It could not be parsed as a whole.
    Unread(String),
}

/// Whether a Jinja template leads out into Python's objects.
pub(super) fn judge(template: &str) -> Template {
    if template.len() > MOST_BYTES {
        return Template::Unread("it is too long".into());
    }
    // The parser counts columns in 16 bits.
    if template.lines().any(|line| line.len() > usize::from(u16::MAX) / 2) {
        return Template::Unread("one of its lines is too long".into());
    }
    let expressions: Vec<Vec<Token<'_>>> = expressions(template).into_iter().map(tokens).collect();
    if expressions.iter().any(|expression| expression.len() > MOST_TOKENS) {
        return Template::Unread("one of its expressions is too long".into());
    }
    let lowers = |token: &Token<'_>| matches!(token, Token::Word(word) if LOWERING.contains(word));
    let lowers = expressions.iter().flatten().any(lowers);
    if let Some(what) = expressions.iter().find_map(|expression| judged(expression, lowers)) {
        return Template::Reaches(what);
    }
    let branch = |expression: &&Vec<Token<'_>>| expression.contains(&Token::Word("elif"));
    if expressions.iter().filter(branch).count() > MOST_BRANCHES {
        return Template::Unread("it has too many branches".into());
    }
    match built::reaches(template) {
        Ok(None) => Template::Harmless,
        Ok(Some(what)) => Template::Reaches(what),
        Err(why) => Template::Unread(why),
    }
}

/// The insides of `{{ }}` and `{% %}`, without comments and raw text.
fn expressions(template: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = template;
    let begins = |pair: &[u8]| matches!(pair, b"{{" | b"{%" | b"{#");
    while let Some(start) = rest.as_bytes().windows(2).position(begins) {
        let (kind, inner) = (rest.as_bytes()[start + 1], &rest[start + 2..]);
        if kind == b'#' {
            rest = inner.find("#}").map_or("", |end| &inner[end + 2..]);
            continue;
        }
        let len = expression(inner, if kind == b'{' { "}}" } else { "%}" });
        rest = inner.get(len + 2..).unwrap_or_default();
        if inner[..len].trim_matches(['-', '+', ' ', '\t', '\n', '\r']) == "raw" {
            let end = rest.match_indices("{%").find(|(at, _)| {
                rest[at + 2..].trim_start_matches(['-', '+', ' ', '\t', '\n', '\r']).starts_with("endraw")
            });
            rest = end.map_or("", |(at, _)| &rest[at..]);
        } else {
            found.push(&inner[..len]);
        }
    }
    found
}

/// The length of the expression at the start of `text`, which ends before `end` outside of strings and braces.
fn expression(text: &str, end: &str) -> usize {
    let (mut at, mut depth) = (0, 0usize);
    while let Some(first) = text[at..].chars().next() {
        if depth == 0 && text[at..].starts_with(end) {
            return at;
        }
        match first {
            '\'' | '"' => at += quoted(&text[at..]).0,
            _ => {
                depth = match first {
                    '{' => depth + 1,
                    '}' => depth.saturating_sub(1),
                    _ => depth,
                };
                at += first.len_utf8();
            }
        }
    }
    at
}

fn tokens(expression: &str) -> Vec<Token<'_>> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let len = if word(first) {
            let len = rest.find(|c| !word(c)).unwrap_or(rest.len());
            found.push(Token::Word(&rest[..len]));
            len
        } else if matches!(first, '\'' | '"') {
            let (len, text) = quoted(rest);
            found.push(Token::Text(text));
            len
        } else {
            if !first.is_whitespace() {
                found.push(Token::Sign(first));
            }
            first.len_utf8()
        };
        rest = &rest[len..];
    }
    found
}

/// The length of the string that `text` begins with, its quotes included, and its value.
fn quoted(text: &str) -> (usize, String) {
    let mut value = String::new();
    let mut rest = text.chars();
    let quote = rest.next();
    while let Some(c) = rest.next() {
        if Some(c) == quote {
            break;
        }
        if c != '\\' {
            value.push(c);
            continue;
        }
        let digits = |skip: usize, most: usize, radix: u32| {
            let digits: String =
                rest.as_str().chars().skip(skip).take(most).take_while(|c| c.is_digit(radix)).collect();
            let code = u32::from_str_radix(&digits, radix).ok().and_then(char::from_u32);
            code.map(|code| (code, skip + digits.len()))
        };
        let escape = rest.as_str().chars().next();
        let decoded = match escape {
            Some('x') => digits(1, 2, 16),
            Some('u') => digits(1, 4, 16),
            Some('U') => digits(1, 8, 16),
            Some('0'..='7') => digits(0, 3, 8),
            Some(other @ ('\\' | '\'' | '"')) => Some((other, 1)),
            Some('\n') => {
                rest.next();
                continue;
            }
            Some('n' | 'r' | 't' | 'a' | 'b' | 'f' | 'v') => Some((' ', 1)),
            _ => None,
        };
        match decoded {
            Some((code, len)) => {
                value.push(code);
                rest.by_ref().take(len).for_each(drop);
            }
            // Characters by name (`\N{LOW LINE}`) are kept, and so are backslashes that begin no escape.
            None => value.push('\\'),
        }
    }
    (text.len() - rest.as_str().len(), value)
}

/// Whether the text at `i` stands alone in the brackets behind a value.
fn is_key(tokens: &[Token<'_>], i: usize) -> bool {
    const KEYWORDS: [&str; 12] =
        ["in", "is", "if", "elif", "else", "and", "or", "not", "set", "for", "do", "call"];
    let before = |n: usize| i.checked_sub(n).map(|at| &tokens[at]);
    let value = match before(2) {
        Some(Token::Word(name)) => !KEYWORDS.contains(name),
        Some(Token::Sign(sign)) => matches!(sign, ')' | ']'),
        _ => false,
    };
    value && before(1) == Some(&Token::Sign('[')) && tokens.get(i + 1) == Some(&Token::Sign(']'))
}

/// Whether `text` is not surely another name between double underscores than those that objects of Python's have.
fn is_of_python(text: &str) -> bool {
    let inner = text.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"));
    let word = |inner: &&str| !inner.is_empty() && inner.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    inner.filter(word).is_none_or(|inner| OF_PYTHON.split_ascii_whitespace().any(|name| name == inner))
}

/// Whether `text` is a name in capital letters, as no attribute of Python's is.
fn is_capital(text: &str) -> bool {
    let inner = text.strip_prefix("__").and_then(|rest| rest.strip_suffix("__")).unwrap_or("");
    inner.contains(|c: char| c.is_ascii_uppercase())
        && inner.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Why an expression is dangerous, if it is, in a template that may make small letters of capital ones (`lowers`).
fn judged(tokens: &[Token<'_>], lowers: bool) -> Option<String> {
    let mut parts = String::new();
    for (i, token) in tokens.iter().enumerate() {
        let before = |n: usize| i.checked_sub(n).map(|at| &tokens[at]);
        match token {
            Token::Word(name) => {
                let attribute = before(1) == Some(&Token::Sign('.'));
                let of_os = attribute && before(2) == Some(&Token::Word("os"));
                let filter = before(1) == Some(&Token::Sign('|'));
                if name.starts_with("__")
                    || STEPS.contains(name)
                    || attribute && *name == "popen"
                    || of_os && *name == "system"
                    || filter && *name == "attr"
                {
                    return Some((*name).to_string());
                }
                if filter
                    && LOOKUPS.contains(name)
                    && tokens.get(i + 1) == Some(&Token::Sign('('))
                    && let Some(why) = computed(&tokens[i + 2..])
                {
                    return Some(why);
                }
            }
            // An item of a message, which no object of Python's has as an attribute.
            Token::Text(text) if is_key(tokens, i) && !is_of_python(text) => {}
            Token::Text(text) if !lowers && is_capital(text) => {}
            Token::Text(text) => {
                let whole = text.trim();
                let fragment = |c: char| c.is_ascii_alphanumeric() || "_%{}.[]!:".contains(c);
                if whole == "attr"
                    || text.contains("\\N{")
                    || text.contains("__") && (text.contains('{') || whole.chars().all(fragment))
                {
                    return Some(format!("'{text}'"));
                }
                if !whole.contains(char::is_whitespace) {
                    match parts.contains("%s") {
                        true => parts = parts.replacen("%s", whole, 1),
                        false => parts += whole,
                    }
                }
            }
            Token::Sign('[') => {
                let subscript = match before(1) {
                    Some(Token::Word(word)) => {
                        !matches!(*word, "in" | "if" | "else" | "and" | "or" | "not" | "is")
                    }
                    Some(Token::Sign(sign)) => matches!(sign, ')' | ']'),
                    _ => false,
                };
                if subscript && let Some(why) = computed(&tokens[i + 1..]) {
                    return Some(why);
                }
            }
            Token::Sign(_) => {}
        }
    }
    let backwards: String = parts.chars().rev().collect();
    // Letters of a few words spell it by chance.
    let texts = tokens.iter().filter_map(|token| match token {
        Token::Text(text) => Some(text.trim()),
        _ => None,
    });
    let is_spelt = texts.into_iter().any(|text| matches!(text, "mro" | "orm"));
    let step = STEPS
        .iter()
        .find(|step| (**step != "mro" || is_spelt) && (parts.contains(**step) || backwards.contains(**step)));
    step.map(|step| format!("'{step}' in parts"))
}

/// Why the name that a subscript or an argument gives is no plain one: `tokens` begin after the bracket.
fn computed(tokens: &[Token<'_>]) -> Option<String> {
    let (mut depth, mut text, mut built) = (0usize, false, false);
    for (i, token) in tokens.iter().enumerate() {
        let after = tokens.get(i + 1);
        match token {
            Token::Sign(')' | ']' | '}') if depth == 0 => break,
            Token::Sign(')' | ']' | '}') => depth -= 1,
            Token::Sign('(' | '[' | '{') => depth += 1,
            _ if depth > 0 => {}
            Token::Text(_) => {
                text = true;
                built |= matches!(after, Some(Token::Sign('[' | '.')));
            }
            Token::Sign('~') => (text, built) = (true, true),
            Token::Sign('+' | '*' | '%') => built = true,
            Token::Sign('|') if !matches!(after, Some(Token::Word(filter)) if NUMBERS.contains(filter)) => {
                (text, built) = (true, true);
            }
            _ => {}
        }
    }
    (text && built).then(|| "a name that it computes".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_that_reach_into_python_are_distinguished_from_those_that_mention_it() {
        for template in [
            "{% for m in messages %}{{ m['role'] }}{% endfor %}",
            "{# see the __init__ docs #}{% for m in messages %}{{ m['role'] }}{% endfor %}",
            "You may not use __import__ in code.{{ m['content'] }}",
            "{{ 'You may not use __import__ in code.' + m['content'] }}",
            "{% raw %}{{ x.__class__ }}{% endraw %}{{ y }}",
            "{{ messages[loop.index0 - 1]['content'].split('</think>')[-1].lstrip('\\n') }}",
            "{{ messages[1:] | map(attribute='content') | join('\\n') }}{{ x[(n - 1) | int] }}",
            "{% if '{{' in m %}{{ m | selectattr('role', 'equalto', 'user') | list }}{% endif %}",
            "{% for i in ['a' ~ b, 'c'] %}{{ {'x': {'y': i}} }}{% endfor %}{{ system.message }}",
            "{% set ns = namespace(i=0, found=false) %}{% set ns.i = ns.i + 1 %}{{ messages[ns.i] }}{{ messages[ns.i - 1].role }}",
            "{% set index = (messages|length - 1) - loop.index0 %}{{ messages[index]['content'] }}",
            "{% for key in ['role', 'content'] %}{{ m[key] }}{% endfor %}{% for k, v in tool|items %}{{ tool[k] }}{% endfor %}",
            "{% set roles = {'user': 'human'} %}{{ names[roles[m.role]] }}{% generation %}{{ m.content }}{% endgeneration %}",
            "{% macro show(x, indent=0) %}{{ ' ' * indent ~ x['name'] }}{{ show(x.items, indent + 2) }}{% endmacro %}{{ show(tool) }}",
            "{%- set no = '__NOT_A_NUMBER__' -%}{% set n = x | int(default=no) %}{{ 1 if n != no else 2 }}",
            "{{ store('accumulator', 'mask') }}",
            "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% endif %}{{ loop_messages[0] }}",
        ] {
            assert_eq!(judge(template), Template::Harmless, "{template}");
        }
        for template in [
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "{{ cycler . __init__ }}",
            "{% set c = '__CLASS__' %}{{ x[c.lower()] }}",
            "{% set c = '__CLASS__'|lower %}{{ x[c] }}",
            "{{ x['orm'[::-1]]() }}",
            "{{ lipsum['__glo'~'bals__']['os']['po'~'pen']('id') }}",
            "{{ lipsum['_' ~ '_glo' ~ 'bals_' ~ '_'] }}",
            "{{ lipsum['\\x5f\\x5fglobals\\137\\u005f'] }}",
            "{{ lipsum['\\N{LOW LINE}'] }}",
            "{{ lipsum | attr('x') }}",
            "{{ [lipsum]|map('attr', y)|list }}",
            "{{ [lipsum]|map(attribute='__glo'+'bals__')|list }}",
            "{{ [lipsum]|map(attribute=u~u~'globals'~u~u)|list }}",
            "{{ lipsum['%sglobals%s'|format('__','__')] }}",
            "{{ lipsum[['__glo','bals__']|join] }}",
            "{{ lipsum['__slabolg__'[::-1]] }}",
            "{{ lipsum['_' * 2 + 'globals' + '_' * 2] }}",
            "{% macro f() %}{{ x[varargs[0]] }}{% endmacro %}{{ f('_' * 2 ~ 'class' ~ '_' * 2) }}",
            "{% macro f() %}{{ x[kwargs.k] }}{% endmacro %}{{ f(k='_' * 2 ~ 'class' ~ '_' * 2) }}",
            "{% for i in ['_' ~ '_class_' ~ '_', 1] %}{{ x[loop.previtem] }}{% endfor %}",
            "{% for i in [1, 2] %}{{ x[loop.cycle('_' ~ '_class_' ~ '_')] }}{% endfor %}",
            "{% for g in [{'k': '_' ~ '_class_' ~ '_'}] | groupby('k') %}{{ x[g.grouper] }}{% endfor %}",
            "{% for i in [['a']] recursive %}{{ x[i] }}{{ loop(['_' ~ '_class_' ~ '_']) }}{% endfor %}",
            "{% block b %}{{ '_' ~ '_class_' ~ '_' }}{% endblock %}{{ x[self.b()] }}",
            "{% set u = '_' %}{{ ('{0.' ~ u ~ u ~ 'class' ~ u ~ u ~ '}').format(x) }}",
            "{{ '{0.__class__} of it'.format(x) }}",
            "{% set f = x.os.popen %}",
            "{{ '}}' }}{{ x.__class__ }}",
            "{% set u='_' %}{% set k=u~u~'globals'~u~u %}{{ lipsum[k] }}",
            "{% set u='_' %}{% set k=u+u+'globals'+u+u %}{{ x[k] }}",
            "{% set k='xxglobalsxx'|replace('x','_') %}{{ y[k] }}",
            "{% set k='%c%cglobals%c%c'%(95,95,95,95) %}{{ y[k] }}",
            "{% set k=('_ _globals_ _'.split(' '))|join %}{{ y[k] }}",
            "{% set ns=namespace(k='_') %}{% set ns.k=ns.k~'_globals_'~ns.k %}{{ y[ns.k] }}",
            "{% for k in ['_'*2+'globals'+'_'*2] %}{{ y[k] }}{% endfor %}",
            "{% set u=dict(_=1)|list|first %}{{ y[u~u~'globals'~u~u] }}",
            "{% set u=dict(_=1)|list|first %}{% set g=dict(globals=1)|list|first %}{{ y[u+u+g+u+u] }}",
            "{% set t={'k':'_','g':'globals'} %}{% set k=t['k'] %}{{ y[k+k+t['g']+k+k] }}",
            "{{ y[(raise_exception|string)[3] + (raise_exception|string)[4]] }}",
            "{% set k %}{{ u }}{{ u }}globals{% endset %}{{ y[k] }}",
            "{% set u=m.content[10] %}{% macro f(k) %}{{ y[k] }}{% endmacro %}{{ f(u ~ u ~ 'globals' ~ u ~ u) }}",
            "{{ [y]|map(attribute=(u~u~'globals'~u~u))|list }}",
            "{{ [y]|map(**{'attribute': u~u~'globals'~u~u})|list }}",
            "{% set f='at'~'tr' %}{{ [y]|map(f, u)|list }}",
            "{% filter attr('x') %}a{% endfilter %}",
            "{{ x.gi_frame.f_back.f_globals }}",
            "{% include '/etc/passwd' %}",
            "{{ cycler }}",
        ] {
            assert!(matches!(judge(template), Template::Reaches(_)), "{template}");
        }
    }
}
