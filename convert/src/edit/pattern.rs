//! Which tensors are meant: patterns for names.

use ckpt_inspect::without_state_dict;
use regex::Regex;

/// A pattern for names of tensors: a glob that stands for the whole name (`*`, `?`, `[…]`, `{a,b}`), or between slashes a regular
/// expression that is found anywhere in it. Either is tried on the name without the key of its state dict first, then on all of it.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
    is_glob: bool,
}

impl Pattern {
    /// The pattern of this text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let expression =
            text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')).filter(|e| !e.is_empty());
        let regex = match expression {
            Some(expression) => Regex::new(expression).map_err(|e| e.to_string()),
            None => glob(text).and_then(|expression| {
                Regex::new(&expression).map_err(|_| "is not a valid glob pattern".to_string())
            }),
        };
        let regex = regex.map_err(|why| format!("`{}`: {why}", text.escape_debug()))?;
        Ok(Pattern { text: text.into(), regex, is_glob: expression.is_none() })
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches `name`.
    pub fn matches(&self, name: &str) -> bool {
        self.regex.is_match(without_state_dict(name)) || self.regex.is_match(name)
    }

    /// The name that `to` makes of `name`; `None` if it does not match. A glob gives the whole name, what `*`, `?`, `[…]` and `{…}` stood for
    /// in place of each `*` of `to` in turn; a regular expression replaces what it matches, everywhere, with `$1` and `${name}` for its groups.
    pub(crate) fn renamed(&self, name: &str, to: &str) -> Option<String> {
        let inner = without_state_dict(name);
        let (key, inner) = match self.regex.is_match(inner) {
            true => (&name[..name.len() - inner.len()], inner),
            false => ("", name),
        };
        if !self.is_glob {
            let is_match = self.regex.is_match(inner);
            return is_match.then(|| format!("{key}{}", self.regex.replace_all(inner, to)));
        }
        let found = self.regex.captures(inner)?;
        let mut captures = found.iter().skip(1).map(|group| group.map_or("", |m| m.as_str()));
        let mut made = key.to_string();
        for (i, part) in to.split('*').enumerate() {
            if i > 0 {
                made.push_str(captures.next().unwrap_or(""));
            }
            made.push_str(part);
        }
        Some(made)
    }

    /// A group that `to` refers to and the regular expression does not have: `$1_w` is the group called `1_w`.
    pub(crate) fn unknown_group(&self, to: &str) -> Option<String> {
        if self.is_glob {
            return None;
        }
        let groups = Regex::new(r"\$(?:\$|\{([^}]*)\}|([0-9A-Za-z_]+))").ok()?;
        let named = groups.captures_iter(to).filter_map(|found| found.get(1).or(found.get(2)));
        let is_known = |name: &str| match name.parse::<usize>() {
            Ok(number) => number < self.regex.captures_len(),
            Err(_) => self.regex.capture_names().flatten().any(|known| known == name),
        };
        named.map(|group| group.as_str()).find(|name| !is_known(name)).map(str::to_string)
    }

    /// The number of parts that `to` can refer to with `*`, if it is a glob.
    pub(crate) fn wildcards(&self) -> Option<usize> {
        self.is_glob.then(|| self.regex.captures_len() - 1)
    }
}

/// The regular expression of a glob, with a group for each of its wildcards.
fn glob(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("an empty pattern matches nothing".into());
    }
    let mut made = String::from("(?s)^");
    let mut chars = text.chars().peekable();
    let mut open = false;
    while let Some(c) = chars.next() {
        match c {
            '*' => {
                // Names have no folders, so more of them mean the same.
                while chars.next_if_eq(&'*').is_some() {}
                made.push_str(if open { ".*" } else { "(.*)" });
            }
            '?' => made.push_str(if open { "." } else { "(.)" }),
            '[' => {
                let mut class = String::new();
                let negated = chars.next_if(|c| matches!(c, '!' | '^')).is_some();
                loop {
                    match chars.next() {
                        Some(']') if !class.is_empty() => break,
                        Some(c) if c == '-' => class.push(c),
                        Some(c) => class.push_str(&regex::escape(&c.to_string())),
                        None => return Err("a `[` has no `]`".into()),
                    }
                }
                let class = format!("[{}{class}]", if negated { "^" } else { "" });
                made.push_str(&if open { class } else { format!("({class})") });
            }
            '{' if open => return Err("a `{` is within another".into()),
            '{' => {
                open = true;
                made.push('(');
            }
            '}' if open => {
                open = false;
                made.push(')');
            }
            ',' if open => made.push('|'),
            '\\' => match chars.next() {
                Some(c) => made.push_str(&regex::escape(&c.to_string())),
                None => return Err("nothing follows the last `\\`".into()),
            },
            c => made.push_str(&regex::escape(&c.to_string())),
        }
    }
    match open {
        true => Err("a `{` has no `}`".into()),
        false => Ok(made + "$"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(from: &str, to: &str, name: &str) -> Option<String> {
        Pattern::new(from).unwrap().renamed(name, to)
    }

    #[test]
    fn globs_match_like_those_of_globset() {
        let globs = [
            "*",
            "layers.*.w",
            "layers.?.w",
            "l[ab]*",
            "l[!ab]*",
            "{x,layers}.*",
            "a.b",
            "ö*",
            "[[]x",
            "a\\*",
        ];
        let names =
            ["layers.0.w", "layers.10.w", "lax", "lcx", "x.1", "a.b", "axb", "öl", "[x", "a*", "ab", "層.w"];
        for glob in globs {
            let theirs = globset::Glob::new(glob).unwrap().compile_matcher();
            let ours = Pattern::new(glob).unwrap();
            for name in names {
                assert_eq!(ours.matches(name), theirs.is_match(name), "{glob} {name}");
            }
        }
    }

    #[test]
    fn what_wildcards_stood_for_goes_into_the_new_name() {
        let wanted = |name: &str| Some(name.to_string());
        assert_eq!(renamed("model.*", "*", "model.norm.w"), wanted("norm.w"));
        assert_eq!(renamed("h.*.mlp.*", "layers.*.ffn.*", "h.3.mlp.up.w"), wanted("layers.3.ffn.up.w"));
        assert_eq!(renamed("*.gamma", "*.weight", "state_dict.bn.gamma"), wanted("state_dict.bn.weight"));
        assert_eq!(renamed("state_dict.*", "*", "state_dict.bn.gamma"), wanted("bn.gamma"));
        assert_eq!(renamed("{q,k}_proj", "attn_*", "k_proj"), wanted("attn_k"));
        assert_eq!(renamed("/^model\\./", "", "model.norm.w"), wanted("norm.w"));
        assert_eq!(renamed("/h\\.(?<n>\\d+)/", "layers.${n}", "x.h.12.w"), wanted("x.layers.12.w"));
        assert_eq!(renamed("層.*", "ö.*", "層.w"), wanted("ö.w"));
        assert_eq!(renamed("model.*", "*", "norm.w"), None);
        assert_eq!(renamed("/x/", "y", "norm.w"), None);
    }

    #[test]
    fn a_wrong_pattern_is_refused() {
        for text in ["", "[a", "{a", "{a,{b}}", "a\\", "/(/"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
