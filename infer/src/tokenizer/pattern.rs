//! Patterns of tokenizer.json. Python's tokenizers library reads them with Oniguruma, and the crate here with fancy-regex, which
//! takes some of the same signs for something else (Oniguruma's `doc/RE`): these are written so that they mean what Oniguruma
//! means, or refused.

use std::borrow::Cow;

use serde_json::Value;

/// What belongs to a word in Oniguruma.
const WORD: &str = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}";
/// What `\w` is besides outside of classes.
const WORD_BESIDES: &str = "¹²³¼½¾";
/// The end of a line, and of the text.
const LINE_END: &str = r"(?=\n|\z)";
/// The beginning of a line, which no text ends with.
const LINE_START: &str = r"(?:\A|(?<=\n)(?!\z))";
/// Patterns are not longer, in bytes.
const LONGEST: usize = 1 << 16;
/// Groups are not nested deeper.
const DEEPEST: usize = 64;

/// Rewrites all patterns in the steps of a tokenizer.json. Whether any has changed.
///
/// # Errors
/// What in a pattern is read otherwise by Oniguruma and cannot be rewritten.
pub(super) fn translate(file: &mut Value) -> Result<bool, String> {
    let mut changed = false;
    let mut steps: Vec<&mut Value> = Vec::new();
    if let Value::Object(parts) = file {
        steps.extend(
            parts
                .iter_mut()
                .filter(|(key, _)| ["normalizer", "pre_tokenizer", "decoder"].contains(&key.as_str()))
                .map(|(_, step)| step),
        );
    }
    while let Some(step) = steps.pop() {
        let Value::Object(parts) = step else { continue };
        for (key, part) in parts.iter_mut() {
            match key.as_str() {
                "pretokenizers" | "normalizers" | "decoders" => {
                    steps.extend(part.as_array_mut().into_iter().flatten());
                }
                "pattern" => {
                    if let Some(Value::String(pattern)) = part.get_mut("Regex")
                        && let Cow::Owned(own) = of_oniguruma(pattern)?
                    {
                        (*pattern, changed) = (own, true);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(changed)
}

/// `pattern` of Oniguruma as fancy-regex reads it.
fn of_oniguruma(pattern: &str) -> Result<Cow<'_, str>, String> {
    if pattern.len() > LONGEST {
        return Err(format!("it has a pattern of more than {LONGEST} bytes"));
    }
    let mut reader =
        Reader { rest: pattern, out: String::with_capacity(pattern.len()), groups: Vec::new(), atom: None };
    reader.all().map_err(|what| {
        let pattern = pattern.escape_debug();
        format!("its pattern `{pattern}` has {what}, which is read otherwise here than in Python's tokenizers library")
    })?;
    Ok(if reader.out == pattern { Cow::Borrowed(pattern) } else { Cow::Owned(reader.out) })
}

struct Reader<'p> {
    rest: &'p str,
    out: String,
    /// Where each open group begins in what is written, and how many more are to be closed with it.
    groups: Vec<(usize, usize)>,
    /// Where what a repetition would repeat begins in what is written.
    atom: Option<usize>,
}

impl<'p> Reader<'p> {
    fn take(&mut self, bytes: usize) -> &'p str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }

    /// The next character.
    fn next(&mut self) -> Option<&'p str> {
        let c = self.rest.chars().next()?;
        Some(self.take(c.len_utf8()))
    }

    /// Writes what may be repeated as a whole.
    fn put(&mut self, text: &str) {
        self.atom = Some(self.out.len());
        self.out.push_str(text);
    }

    fn all(&mut self) -> Result<(), String> {
        // Isolated options last to the end of their group, alternatives included.
        let mut isolated = 0;
        while let Some(c) = self.next() {
            match c {
                "\\" => self.escape()?,
                "[" => {
                    let start = self.out.len();
                    self.out.push('[');
                    self.class(0)?;
                    self.atom = Some(start);
                }
                "(" => {
                    if self.groups.len() == DEEPEST {
                        return Err("too many nested groups".into());
                    }
                    if self.opens_isolated()? {
                        match self.groups.last_mut() {
                            Some((_, isolated)) => *isolated += 1,
                            None => isolated += 1,
                        }
                    }
                }
                ")" => {
                    let Some((start, isolated)) = self.groups.pop() else {
                        self.out.push(')');
                        continue;
                    };
                    self.out.push_str(&")".repeat(isolated + 1));
                    self.atom = Some(start);
                }
                "|" => {
                    self.out.push('|');
                    self.atom = None;
                }
                "^" => {
                    self.out.push_str(LINE_START);
                    self.atom = None;
                }
                "$" => {
                    self.out.push_str(LINE_END);
                    self.atom = None;
                }
                "*" | "+" | "?" => self.repeated(c, false)?,
                "{" => match interval(self.rest) {
                    Some((least, most, length)) => {
                        if most.is_some_and(|most| most < least) {
                            return Err("a repetition whose least is above its most".into());
                        }
                        self.take(length);
                        let exact = most == Some(least);
                        let times = match most {
                            Some(most) if exact => format!("{{{most}}}"),
                            Some(most) => format!("{{{least},{most}}}"),
                            None => format!("{{{least},}}"),
                        };
                        self.repeated(&times, !exact)?;
                    }
                    None => self.put(r"\{"),
                },
                other => self.put(other),
            }
        }
        self.out.push_str(&")".repeat(isolated));
        Ok(())
    }

    /// A repetition, and what follows it: `?` makes it reluctant, unless it is of an exact number of times, and `+` possessive
    /// where it is one of the short ones.
    fn repeated(&mut self, times: &str, is_interval: bool) -> Result<(), String> {
        let Some(start) = self.atom else { return Err(format!("a repetition (`{times}`) of nothing")) };
        self.out.push_str(times);
        let is_short = times.len() == 1;
        let mut modified = false;
        loop {
            let next = self.rest.chars().next().filter(|c| matches!(c, '?' | '+' | '*'));
            match next {
                Some(c @ ('?' | '+')) if !modified && (is_short || is_interval && c == '?') => {
                    self.take(1);
                    self.out.push(c);
                    modified = true;
                }
                // One of the whole.
                Some(_) => {
                    self.out.insert_str(start, "(?:");
                    self.out.push(')');
                    self.atom = Some(start);
                    return Ok(());
                }
                None if self.rest.starts_with('{') && interval(&self.rest[1..]).is_some() => {
                    self.out.insert_str(start, "(?:");
                    self.out.push(')');
                    self.atom = Some(start);
                    return Ok(());
                }
                None => {
                    self.atom = None;
                    return Ok(());
                }
            }
        }
    }

    /// The beginning of a group. Whether it is an option that lasts to the end of the group that it is in.
    fn opens_isolated(&mut self) -> Result<bool, String> {
        let start = self.out.len();
        let Some(inner) = self.rest.strip_prefix('?') else {
            if self.rest.starts_with('*') {
                return Err("a callout".into());
            }
            self.out.push('(');
            self.groups.push((start, 0));
            self.atom = None;
            return Ok(false);
        };
        if let Some(comment) = inner.strip_prefix('#') {
            let end = comment.find(')').ok_or("a comment without an end")?;
            self.take(2 + end + 1);
            return Ok(false);
        }
        let known = [":", "=", "!", ">", "<=", "<!"].into_iter().find(|sign| inner.starts_with(sign));
        let named = || inner.starts_with('<').then(|| inner.find('>')).flatten().map(|end| end + 1);
        if let Some(length) = known.map(str::len).or_else(named) {
            let sign = self.take(1 + length);
            self.out.push('(');
            self.out.push_str(sign);
            self.groups.push((start, 0));
            self.atom = None;
            return Ok(false);
        }
        let length = inner.find(|c: char| !matches!(c, 'i' | 'm' | '-')).unwrap_or(inner.len());
        let (options, after) = inner.split_at(length);
        if options.is_empty() || !after.starts_with([')', ':']) {
            let sign: String = inner.chars().take(1).collect();
            return Err(format!("a group `(?{sign}`"));
        }
        // What lets a dot match the end of a line has another letter.
        let options = options.replace('m', "s");
        let isolated = after.starts_with(')');
        self.take(1 + length + 1);
        self.out.push_str(&format!("(?{options}:"));
        if !isolated {
            self.groups.push((start, 0));
        }
        self.atom = None;
        Ok(isolated)
    }

    fn escape(&mut self) -> Result<(), String> {
        let Some(c) = self.next() else { return Err("a backslash at its end".into()) };
        match c {
            "w" => self.put(&format!("[{WORD}{WORD_BESIDES}]")),
            "W" => self.put(&format!("[^{WORD}{WORD_BESIDES}]")),
            "b" | "B" => {
                let word = format!("[{WORD}{WORD_BESIDES}]");
                let sides = match c {
                    "b" => format!("(?:(?<={word})(?!{word})|(?<!{word})(?={word}))"),
                    _ => format!("(?:(?<={word})(?={word})|(?<!{word})(?!{word}))"),
                };
                self.out.push_str(&sides);
                self.atom = None;
            }
            "Z" => {
                self.out.push_str(r"(?=\n?\z)");
                self.atom = None;
            }
            "A" | "z" => {
                self.out.push_str(&format!("\\{c}"));
                self.atom = None;
            }
            "p" | "P" | "x" | "u" => {
                let braced = self.rest.starts_with('{').then(|| self.rest.find('}')).flatten();
                let hex = self.rest.chars().take_while(char::is_ascii_hexdigit).count();
                let length = match (braced, c) {
                    (Some(end), _) if c != "u" => end + 1,
                    (_, "x") if hex >= 2 => 2,
                    (_, "u") if hex >= 4 => 4,
                    _ => return Err(format!("`\\{c}` without braces")),
                };
                let name = self.take(length);
                match name.strip_prefix("{^").filter(|_| c == "p") {
                    Some(name) => self.put(&format!("\\P{{{name}")),
                    None => self.put(&format!("\\{c}{name}")),
                }
            }
            "d" | "D" | "s" | "S" | "h" | "H" | "n" | "r" | "t" | "f" | "v" | "a" | "e" => {
                self.put(&format!("\\{c}"));
            }
            c if !c.chars().all(|c| c.is_ascii_alphanumeric()) => {
                match c.chars().all(|c| c.is_ascii_punctuation()) {
                    true if !matches!(c, "<" | ">") => self.put(&format!("\\{c}")),
                    _ => self.put(c),
                }
            }
            c => return Err(format!("`\\{c}`")),
        }
        Ok(())
    }

    /// What follows the bracket that opens a class, up to the one that closes it.
    fn class(&mut self, depth: usize) -> Result<(), String> {
        if depth == DEEPEST {
            return Err("too many nested classes".into());
        }
        let unclosed = || "a class without an end".to_string();
        if self.rest.starts_with('^') {
            self.take(1);
            self.out.push('^');
        }
        // A bracket that closes nothing is a character.
        if self.rest.starts_with(']') {
            self.take(1);
            self.out.push_str(r"\]");
        }
        loop {
            let c = self.next().ok_or_else(unclosed)?;
            match c {
                "]" => {
                    self.out.push(']');
                    return Ok(());
                }
                "[" if self.rest.starts_with(':') && self.rest.contains(":]") => self.named_class()?,
                "[" => {
                    self.out.push('[');
                    self.class(depth + 1)?;
                }
                "\\" => {
                    let c = self.next().ok_or_else(unclosed)?;
                    match c {
                        "w" => self.out.push_str(WORD),
                        "W" => self.out.push_str(&format!("[^{WORD}]")),
                        "h" => self.out.push_str("0-9A-Fa-f"),
                        "H" => self.out.push_str("[^0-9A-Fa-f]"),
                        "b" => self.out.push_str(r"\x08"),
                        "e" => self.out.push_str(r"\x1b"),
                        "p" | "P" => {
                            let end = self.rest.starts_with('{').then(|| self.rest.find('}')).flatten();
                            let name = self.take(end.ok_or_else(|| format!("`\\{c}` without braces"))? + 1);
                            match name.strip_prefix("{^").filter(|_| c == "p") {
                                Some(name) => self.out.push_str(&format!("\\P{{{name}")),
                                None => self.out.push_str(&format!("\\{c}{name}")),
                            }
                        }
                        "d" | "D" | "s" | "S" | "n" | "r" | "t" | "f" | "v" | "a" | "x" | "u" => {
                            self.out.push_str(&format!("\\{c}"));
                        }
                        c if !c.chars().all(|c| c.is_ascii_alphanumeric()) => {
                            match c.chars().all(|c| c.is_ascii_punctuation()) {
                                true => self.out.push_str(&format!("\\{c}")),
                                false => self.out.push_str(c),
                            }
                        }
                        c => return Err(format!("`\\{c}` in a class")),
                    }
                }
                // The difference of two classes here.
                "-" if self.rest.starts_with('-') => return Err("`--` in a class".into()),
                "~" if self.rest.starts_with('~') => self.out.push_str(r"\~"),
                other => self.out.push_str(other),
            }
        }
    }

    /// `[:alpha:]` and the like in a class, which are of Unicode's characters there.
    fn named_class(&mut self) -> Result<(), String> {
        let end = self.rest.find(":]").unwrap_or(self.rest.len());
        let whole = self.take(end + 2);
        let name = whole.trim_matches([':', ']']);
        let (not, name) = name.strip_prefix('^').map_or(("", name), |name| ("^", name));
        let members = match name {
            "alpha" => r"\p{Alphabetic}",
            "digit" => r"\p{Nd}",
            "alnum" => r"\p{Alphabetic}\p{Nd}",
            "upper" => r"\p{Uppercase}",
            "lower" => r"\p{Lowercase}",
            "space" => r"\s",
            "word" => WORD,
            "punct" => r"\p{P}\p{S}",
            "xdigit" => "0-9A-Fa-f",
            other => return Err(format!("`[:{}:]`", other.escape_debug())),
        };
        self.out.push_str(&format!("[{not}{members}]"));
        Ok(())
    }
}

/// How often at least, at most, and the length of it, where `rest` begins with what follows the brace of a repetition.
fn interval(rest: &str) -> Option<(usize, Option<usize>, usize)> {
    let end = rest.find('}')?;
    let inner = &rest[..end];
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (least, most) = match inner.split_once(',') {
        Some((least, most)) => (least, most),
        None => (inner, inner),
    };
    if !is_number(least) || !is_number(most) || (least.is_empty() && most.is_empty()) {
        return None;
    }
    let number = |text: &str, usual: Option<usize>| {
        if text.is_empty() { Some(usual) } else { Some(Some(text.parse().ok()?)) }
    };
    Some((number(least, Some(0))??, number(most, None)?, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_mean_the_same_stay() {
        for pattern in [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
            r" ?[^(\s|.,!?…。，、।۔،)]+",
            "[一-龥ࠀ-一가-\u{d7ff}]+",
        ] {
            assert!(matches!(of_oniguruma(pattern), Ok(Cow::Borrowed(_))), "{:?}", of_oniguruma(pattern));
        }
        assert_eq!(of_oniguruma(r"\p{N}{1,3}+").unwrap(), r"(?:\p{N}{1,3})+");
        assert_eq!(of_oniguruma(r"x(?i)a|b").unwrap(), "x(?i:a|b)");
        let many = "(".repeat(1 << 16);
        assert!(of_oniguruma(&many).unwrap_err().contains("too many nested groups"));
        assert!(of_oniguruma(&"[".repeat(1 << 16)).is_err());
        assert!(of_oniguruma(&"a{1,2}+".repeat(1 << 12)).is_ok());
        assert!(of_oniguruma(&"a".repeat(1 << 17)).is_err());
    }
}
