//! A template's source in the Jinja that minijinja reads: without the blocks for which transformers extends Jinja, with texts in quotes
//! as Python reads them, and with what minijinja computes otherwise as functions: `%`, which formats texts too, `~`, which
//! writes values as Python does, and macros that take any arguments.

use std::borrow::Cow;
use std::fmt::Write;

use minijinja::Error as JinjaError;

use super::jinja::wrong;
use super::macros::Macros;

/// The functions in the place of `%` and `~`.
pub(super) const REMAINDER: &str = "__remainder";
pub(super) const JOINED: &str = "__joined";
/// More operators than a template has.
const MOST: usize = 4096;

/// What is written before and after a block that marks what the model says: no characters, and so in no text.
pub(super) const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];
/// The blocks that do.
const SAID: [&str; 2] = ["generation", "endgeneration"];

/// Whether `source` has blocks that mark what the model says.
pub(super) fn marks_answers(source: &str) -> bool {
    insides(source).any(|inner| inner.trim() == SAID[0])
}

/// `source` rewritten. If it is to be `marked`, [`MARKS`] are written around what the model says.
pub(super) fn rewritten(source: &str, marked: bool) -> Result<Cow<'_, str>, JinjaError> {
    if !source.contains('{') {
        return Ok(Cow::Borrowed(source));
    }
    let macros = match ["varargs", "kwargs"].iter().any(|rest| source.contains(rest)) {
        true => Macros::of(insides(source)),
        false => Macros::default(),
    };
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (text, tag) = rest.split_at(at);
        out.push_str(text);
        let len = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => {
                let len = end_of_tag(tag, "}}");
                inside(&tag[..len], "}}", &macros, &mut out)?;
                rest = &tag[len..];
                continue;
            }
            Some(b'%') => match word(tag) {
                Some((_, "raw")) => end_of_raw(tag),
                Some((at, name)) if SAID.contains(&name) => {
                    let is_end = usize::from(name == SAID[1]);
                    // A scope of its own, which such a block is.
                    let scope = ["with", "endwith"][is_end];
                    out.push_str(&tag[..at]);
                    out.push_str(scope);
                    if marked {
                        // Between two tags, so that spaces around them are trimmed as they are.
                        write!(out, " %}}{{{{ '{}' }}}}{{% {scope}", MARKS[is_end]).unwrap_or(());
                    }
                    rest = &tag[at + name.len()..];
                    continue;
                }
                _ => {
                    let len = end_of_tag(tag, "%}");
                    inside(&tag[..len], "%}", &macros, &mut out)?;
                    rest = &tag[len..];
                    continue;
                }
            },
            _ => 1,
        };
        out.push_str(&tag[..len]);
        rest = &tag[len..];
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

/// What is in the tags of a template, without comments and raw blocks.
fn insides(source: &str) -> impl Iterator<Item = &str> {
    let mut rest = source;
    std::iter::from_fn(move || {
        loop {
            let tag = &rest[rest.find('{')?..];
            let (len, inner) = match tag.as_bytes().get(1) {
                Some(b'#') => (tag.find("#}").map_or(tag.len(), |end| end + 2), None),
                Some(b'%') if word(tag).is_some_and(|(_, name)| name == "raw") => (end_of_raw(tag), None),
                Some(b'%') => (end_of_tag(tag, "%}"), Some("%}")),
                Some(b'{') => (end_of_tag(tag, "}}"), Some("}}")),
                _ => (1, None),
            };
            rest = &tag[len..];
            if let Some(inner) = inner.and_then(|end| tag[2..len].strip_suffix(end)) {
                return Some(inner.trim_matches(['-', '+']));
            }
        }
    })
}

/// The first word of the block tag that begins here, and where it stands.
fn word(tag: &str) -> Option<(usize, &str)> {
    let inner = tag.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
    let len = inner.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(inner.len());
    (len > 0).then(|| (tag.len() - inner.len(), &inner[..len]))
}

/// The length of the tag that begins here and ends with `end`, outside of texts in quotes.
fn end_of_tag(tag: &str, end: &str) -> usize {
    let mut quote = None;
    let mut chars = tag.char_indices().skip(2);
    while let Some((at, c)) = chars.next() {
        match quote {
            Some(_) if c == '\\' => {
                chars.next();
            }
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if tag[at..].starts_with(end) => return at + end.len(),
            None => {}
        }
    }
    tag.len()
}

/// The length of the raw block that begins here.
fn end_of_raw(tag: &str) -> usize {
    let inner = end_of_tag(tag, "%}");
    let mut at = inner;
    while let Some(next) = tag[at..].find("{%") {
        at += next;
        let len = end_of_tag(&tag[at..], "%}");
        if word(&tag[at..]).is_some_and(|(_, name)| name == "endraw") {
            return at + len;
        }
        at += 2;
    }
    tag.len()
}

/// Writes a tag with what is in it rewritten.
fn inside(tag: &str, end: &str, macros: &Macros, out: &mut String) -> Result<(), JinjaError> {
    let Some(inner) = tag[2..].strip_suffix(end) else {
        out.push_str(tag);
        return Ok(());
    };
    let sign = |c: Option<char>| usize::from(matches!(c, Some('-' | '+')));
    let first = sign(inner.chars().next());
    let last = if inner.len() > first { sign(inner.chars().last()) } else { 0 };
    out.push_str(&tag[..2 + first]);
    let mut inner = with_texts(&inner[first..inner.len() - last])?;
    if inner.contains('[') {
        inner = with_methods(&inner);
    }
    for without in [without_remainder, without_joining] {
        for _ in 0..MOST {
            match without(&inner) {
                Some(without) => inner = without,
                None => break,
            }
        }
    }
    if !macros.is_empty() {
        inner = macros.rewritten(&inner);
    }
    out.push_str(&inner);
    out.push_str(&tag[tag.len() - end.len() - last..]);
    Ok(())
}

/// What a part of an expression is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Text,
    Name,
    Number,
    Sign,
}

/// A part of an expression, by its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'t> {
    kind: Kind,
    /// Where it begins.
    pub start: usize,
    pub text: &'t str,
}

impl Token<'_> {
    /// Where it ends.
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Whether it is a name.
    pub fn is_any_name(&self) -> bool {
        self.kind == Kind::Name
    }

    /// Whether it is the name `name`.
    pub fn is_name(&self, name: &str) -> bool {
        self.kind == Kind::Name && self.text == name
    }

    /// Whether it is the operator or bracket `sign`.
    pub fn is(&self, sign: &str) -> bool {
        self.kind == Kind::Sign && self.text == sign
    }

    fn opens(&self) -> bool {
        self.kind == Kind::Sign && matches!(self.text, "(" | "[" | "{")
    }

    fn closes(&self) -> bool {
        self.kind == Kind::Sign && matches!(self.text, ")" | "]" | "}")
    }

    /// Whether an operand may end with it.
    fn ends_operand(&self) -> bool {
        self.closes()
            || matches!(self.kind, Kind::Text | Kind::Number)
            || self.kind == Kind::Name && !self.is_word()
    }

    fn is_word(&self) -> bool {
        const WORDS: [&str; 16] = [
            "and", "or", "not", "if", "else", "elif", "in", "is", "set", "print", "do", "for", "with",
            "call", "filter", "include",
        ];
        self.kind == Kind::Name && WORDS.contains(&self.text)
    }
}

/// The parts of an expression.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let run = |is: &dyn Fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let (kind, len) = match c {
            _ if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '"' | '\'' => (Kind::Text, text_len(rest)),
            _ if c.is_alphabetic() || c == '_' => (Kind::Name, run(&|c| c.is_alphanumeric() || c == '_')),
            _ if c.is_ascii_digit() => (Kind::Number, number_len(rest)),
            _ => {
                let long = ["**", "//", "==", "!=", "<=", ">="].iter().any(|sign| rest.starts_with(sign));
                (Kind::Sign, if long { 2 } else { c.len_utf8() })
            }
        };
        tokens.push(Token { kind, start: at, text: &rest[..len] });
        at += len;
    }
    tokens
}

/// The length of the text in quotes that begins here.
fn text_len(text: &str) -> usize {
    let mut chars = text.char_indices();
    let quote = chars.next().map(|(_, c)| c);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            _ if Some(c) == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

fn number_len(text: &str) -> usize {
    let digits =
        |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let mut len = digits(text);
    if text[len..].starts_with('.') && text[len + 1..].starts_with(|c: char| c.is_ascii_digit()) {
        len += 1 + digits(&text[len + 1..]);
    }
    let is_power = text[..len].ends_with(['e', 'E']) && !text.starts_with("0x");
    if is_power && text[len..].starts_with(['+', '-']) {
        len += 1 + digits(&text[len + 1..]);
    }
    len
}

/// `text` with the first `%` as a call; `None` without one.
fn without_remainder(text: &str) -> Option<String> {
    let tokens = tokens(text);
    let at = tokens.iter().position(|token| token.is("%"))?;
    let (first, last) = (left_of(&tokens, at)?, right_of(&tokens, at + 1)?);
    let (start, end) = (tokens[first].start, tokens[last - 1].end());
    let (left, right) = (&text[start..tokens[at].start], &text[tokens[at].end()..end]);
    Some(format!("{}{REMAINDER}({left},{right}){}", &text[..start], &text[end..]))
}

/// `text` with the first run of `~` as a call; `None` without one.
fn without_joining(text: &str) -> Option<String> {
    let tokens = tokens(text);
    let at = tokens.iter().position(|token| token.is("~"))?;
    let first = left_of(&tokens, at)?;
    let start = tokens[first].start;
    let mut out = format!("{}{JOINED}({}", &text[..start], &text[start..tokens[at].start]);
    let mut at = at;
    loop {
        let mut last = right_of(&tokens, at + 1)?;
        while tokens.get(last).is_some_and(|token| ["*", "/", "//"].iter().any(|sign| token.is(sign))) {
            last = right_of(&tokens, last + 1)?;
        }
        let end = tokens[last - 1].end();
        out.push(',');
        out.push_str(&text[tokens[at].end()..end]);
        match tokens.get(last).is_some_and(|token| token.is("~")) {
            true => at = last,
            false => return Some(format!("{out}){}", &text[end..])),
        }
    }
}

/// `text` with what is taken by a name in quotes and called, as a method.
fn with_methods(text: &str) -> String {
    let tokens = tokens(text);
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for (i, four) in tokens.windows(4).enumerate() {
        let [open, name, close, call] = four else { continue };
        let is_taken = open.is("[") && name.kind == Kind::Text && close.is("]") && call.is("(");
        let is_of_value = i.checked_sub(1).is_some_and(|before| tokens[before].ends_operand());
        let inner = name.text.trim_matches(['\'', '"']);
        let is_name = inner.len() + 2 == name.text.len()
            && inner.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && inner.chars().all(|c| c.is_alphanumeric() || c == '_');
        if is_taken && is_of_value && is_name {
            out.push_str(&text[at..open.start]);
            out.push('.');
            out.push_str(inner);
            at = close.end();
        }
    }
    out.push_str(&text[at..]);
    out
}

/// The first token of the operand that ends before the operator at `at`: factors bind as it does, from the left.
fn left_of(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let mut first = at;
    while let Some(before) = first.checked_sub(1) {
        let token = &tokens[before];
        let previous = before.checked_sub(1).map(|i| &tokens[i]);
        let after_is = previous.is_some_and(|token| token.kind == Kind::Name && token.text == "is");
        match token {
            _ if token.closes() => first = opening(tokens, before)?,
            _ if token.opens() => break,
            _ if token.is("-") || token.is("+") => {
                if previous.is_some_and(Token::ends_operand) {
                    break;
                }
                first = before;
            }
            _ if token.is_word() && token.text != "is" && !after_is => break,
            _ if ["~", "==", "!=", "<", ">", "<=", ">=", "=", ",", ":", "%"]
                .iter()
                .any(|sign| token.is(sign)) =>
            {
                break;
            }
            _ => first = before,
        }
    }
    (first < at).then_some(first)
}

/// Where the bracket opens that closes at `at`.
fn opening(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let mut depth = 0;
    (0..=at).rev().find(|&i| {
        depth += i32::from(tokens[i].closes()) - i32::from(tokens[i].opens());
        depth == 0
    })
}

/// After the bracket that opens at `at`.
fn closing(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let mut depth = 0;
    let closes = (at..tokens.len()).find(|&i| {
        depth += i32::from(tokens[i].opens()) - i32::from(tokens[i].closes());
        depth == 0
    });
    closes.map(|i| i + 1)
}

/// After the operand that begins at `at`: signs, a value, what is taken of it, filters and tests, and its power.
fn right_of(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let mut at = at;
    loop {
        while tokens.get(at).is_some_and(|token| token.is("-") || token.is("+")) {
            at += 1;
        }
        at = value(tokens, at)?;
        while let Some(token) = tokens.get(at) {
            let next = tokens.get(at + 1);
            if token.is("|") {
                at += 2;
            } else if token.kind == Kind::Name && token.text == "is" {
                at += if next.is_some_and(|token| token.text == "not") { 3 } else { 2 };
                let argument = tokens.get(at).filter(|token| !token.is_word());
                let is_value =
                    argument.is_some_and(|token| token.kind != Kind::Sign || token.is("[") || token.is("{"));
                at = if is_value { value(tokens, at)? } else { at };
            } else if let Some(after) = taken(tokens, at) {
                at = after?;
            } else {
                break;
            }
        }
        match tokens.get(at) {
            Some(token) if token.is("**") => at += 1,
            _ => return (at <= tokens.len()).then_some(at),
        }
    }
}

/// After a value and what is taken of it.
fn value(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let token = tokens.get(at)?;
    let mut after = match token.kind {
        Kind::Sign if token.opens() => closing(tokens, at)?,
        Kind::Sign => return None,
        Kind::Text => at + tokens[at..].iter().take_while(|token| token.kind == Kind::Text).count(),
        _ => at + 1,
    };
    while let Some(next) = taken(tokens, after) {
        after = next?;
    }
    Some(after)
}

/// After `.name`, `[…]` or `(…)`, if that is here.
fn taken(tokens: &[Token<'_>], at: usize) -> Option<Option<usize>> {
    let token = tokens.get(at)?;
    match token.text {
        "." if token.kind == Kind::Sign => Some(Some(at + 2)),
        "[" | "(" if token.kind == Kind::Sign => Some(closing(tokens, at)),
        _ => None,
    }
}

/// `text` with the texts in quotes in it as Python reads them.
fn with_texts(text: &str) -> Result<String, JinjaError> {
    if !text.contains('\\') {
        return Ok(text.to_string());
    }
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for token in
        tokens(text).into_iter().filter(|token| token.kind == Kind::Text && token.text.contains('\\'))
    {
        out.push_str(&text[at..token.start]);
        write_text(token.text, &mut out)?;
        at = token.end();
    }
    out.push_str(&text[at..]);
    Ok(out)
}

/// Writes a text in quotes with the characters that it stands for.
fn write_text(quoted: &str, out: &mut String) -> Result<(), JinjaError> {
    let quote = &quoted[..1];
    let inner = quoted[1..].strip_suffix(quote).unwrap_or(&quoted[1..]);
    out.push_str(quote);
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at + 1..];
        let Some(c) = escape.chars().next() else { break };
        let (code, len) = match c {
            '\n' => (None, 1),
            'a' => (Some(7), 1),
            'b' => (Some(8), 1),
            'f' => (Some(12), 1),
            'n' => (Some(10), 1),
            'r' => (Some(13), 1),
            't' => (Some(9), 1),
            'v' => (Some(11), 1),
            '\\' | '\'' | '"' => (Some(c as u32), 1),
            'x' => (Some(hexadecimal(&escape[1..], 2)?), 3),
            'u' => (Some(hexadecimal(&escape[1..], 4)?), 5),
            'U' => (Some(hexadecimal(&escape[1..], 8)?), 9),
            'N' => return Err(wrong("characters by their names (\\N{…}) are not known")),
            '0'..='7' => {
                let digits = escape.find(|c| !matches!(c, '0'..='7')).unwrap_or(escape.len()).min(3);
                (u32::from_str_radix(&escape[..digits], 8).ok(), digits)
            }
            _ => {
                // No escape: both characters stay.
                out.push_str("\\\\");
                (Some(c as u32), c.len_utf8())
            }
        };
        if let Some(code) = code {
            let c = char::from_u32(code).ok_or_else(|| wrong("a text has half a character (a surrogate)"))?;
            match c {
                '\\' | '\'' | '"' => write!(out, "\\{c}").unwrap_or(()),
                c if c.is_control() => write!(out, "\\u{code:04x}").unwrap_or(()),
                c => out.push(c),
            }
        }
        rest = &escape[len..];
    }
    out.push_str(rest);
    out.push_str(quote);
    Ok(())
}

fn hexadecimal(text: &str, digits: usize) -> Result<u32, JinjaError> {
    let digits = text.get(..digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    number.ok_or_else(|| wrong("a text has an escape that is cut short"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_are_replaced() {
        for (source, wanted) in [
            ("{% generation %}x{%- endgeneration -%}", "{% with %}x{%- endwith -%}"),
            ("{%-generation-%}x{%+ endgeneration %}", "{%-with-%}x{%+ endwith %}"),
            (
                "{{ '{% generation %}' }}{# {% generation %} #}",
                "{{ '{% generation %}' }}{# {% generation %} #}",
            ),
            ("{% raw %}{% generation %}{% endraw %}", "{% raw %}{% generation %}{% endraw %}"),
            ("{% if a == '%} {% generation %}' %}", "{% if a == '%} {% generation %}' %}"),
            ("{ generation } {% generations %}{", "{ generation } {% generations %}{"),
        ] {
            assert_eq!(rewritten(source, false).unwrap(), wanted);
        }
    }

    #[test]
    fn marks_stand_where_the_blocks_trim_spaces() {
        assert_eq!(
            rewritten("a {%- generation %}\nx{% endgeneration -%} b", true).unwrap(),
            "a {%- with %}{{ '\u{fdd0}' }}{% with %}\nx{% endwith %}{{ '\u{fdd1}' }}{% endwith -%} b"
        );
        assert!(marks_answers("{%- generation -%}x{% endgeneration %}"));
        assert!(!marks_answers("{{ 'generation' }}{# {% generation %} #}{% if generation %}x{% endif %}"));
    }

    #[test]
    fn a_remainder_takes_what_jinja_gives_it() {
        for (source, wanted) in [
            ("{{- a % 2 -}}", "{{- __remainder(a , 2) -}}"),
            ("{{ 1 + a * b % c + d }}", "{{ 1 + __remainder(a * b , c) + d }}"),
            ("{{ -a % -b ** 2 ~ c }}", "{{ __joined(__remainder(-a , -b ** 2) , c) }}"),
            ("{% if (loop.index0 % 2 == 0) != x %}", "{% if (__remainder(loop.index0 , 2) == 0) != x %}"),
            (
                "{% set x = 'a%b' % (c, d)|f(1).e if y else z %}",
                "{% set x = __remainder('a%b' , (c, d)|f(1).e) if y else z %}",
            ),
            ("{{ a % b % c }}", "{{ __remainder(__remainder(a , b) , c) }}"),
            ("{{ f(x=a % b, y=[c % d]) }}", "{{ f(x=__remainder(a , b), y=[__remainder(c , d)]) }}"),
            ("{{ x is not divisibleby 3 % 2 }}", "{{ __remainder(x is not divisibleby 3 , 2) }}"),
            ("50 % {{ '%' }} {# a % b #}", "50 % {{ '%' }} {# a % b #}"),
            ("{{ a ~ b * c ~ d|f + 1 }}", "{{ __joined(a , b * c, d|f) + 1 }}"),
            (
                "{{ f(a ~ b) ~ '~' if c ~ d else e }}",
                "{{ __joined(f(__joined(a , b)) , '~') if __joined(c , d) else e }}",
            ),
            ("{{ a['strip']() ~ [b]['c'] }}", "{{ __joined(a.strip() , [b]['c']) }}"),
        ] {
            assert_eq!(rewritten(source, false).unwrap(), wanted);
        }
    }

    #[test]
    fn texts_are_read_as_python_reads_them() {
        for (source, wanted) in [
            (r"{{ '\x41\u00e9\101\/\d' }}", r"{{ 'Aé\u0041\\/\\d' }}".replace(r"\u0041", "A")),
            (r"{{ 'a\nb\'\\' }}", r"{{ 'a\u000ab\'\\' }}".to_string()),
        ] {
            assert_eq!(rewritten(source, false).unwrap(), wanted);
        }
        assert!(rewritten(r"{{ '\N{BULLET}' }}", false).unwrap_err().to_string().contains("names"));
    }
}
