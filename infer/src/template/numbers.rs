//! Jinja2's filters that make numbers, and its tests of numbers and letters, where minijinja's are others (`filters.py` and
//! `tests.py` of Jinja2).

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error as JinjaError, tests};

use super::filters::arguments;
use super::jinja::wrong;
use super::python::text_of;

type Made = Result<Value, JinjaError>;

/// Adds them.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("int", whole);
    environment.add_filter("float", real);
    environment.add_filter("round", rounded);
    environment.add_test("lower", |value: Value| -> Result<bool, JinjaError> {
        Ok(tests::is_lower(&Value::from(text_of(&value)?)))
    });
    environment.add_test("upper", |value: Value| -> Result<bool, JinjaError> {
        Ok(tests::is_upper(&Value::from(text_of(&value)?)))
    });
    for (name, odd) in [("odd", true), ("even", false)] {
        environment.add_test(name, move |value: Value| -> Result<bool, JinjaError> {
            let rest = match value.kind() {
                ValueKind::Bool => i128::from(value.is_true()),
                ValueKind::Number if value.is_integer() => i128::try_from(value)?.rem_euclid(2),
                ValueKind::Number => match f64::try_from(value)?.rem_euclid(2.0) {
                    0.0 => 0,
                    1.0 => 1,
                    _ => 2,
                },
                kind => return Err(wrong(format!("whether a {kind} is {name} cannot be told"))),
            };
            Ok(rest == i128::from(odd))
        });
    }
}

/// The digits of a number in a text, without the spaces around it and the underscores between digits.
fn digits(text: &str) -> Option<String> {
    let text = text.trim();
    let chars: Vec<char> = text.chars().collect();
    let is_digit =
        |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(char::is_ascii_alphanumeric);
    let between =
        |(at, c): (usize, &char)| *c != '_' || (is_digit(at.checked_sub(1)) && is_digit(Some(at + 1)));
    let is_valid = chars.iter().enumerate().all(between);
    is_valid.then(|| chars.into_iter().filter(|c| *c != '_').collect())
}

/// `float(text)`.
fn real_of(text: &str) -> Option<f64> {
    digits(text)?.parse().ok()
}

/// `int(number)`.
pub(super) fn truncated(number: f64) -> Result<Option<Value>, JinjaError> {
    const LARGEST: f64 = (1u64 << 63) as f64;
    match number {
        number if number.is_nan() => Ok(None),
        number if number.abs() < LARGEST => Ok(Some(Value::from(number as i64))),
        number if number.is_infinite() => Err(wrong("what is infinite is no whole number")),
        _ => Err(wrong("whole numbers of more than 64 bits are not supported")),
    }
}

fn defined(value: &Value) -> Result<(), JinjaError> {
    if value.is_undefined() { Err(wrong("what is undefined is no number")) } else { Ok(()) }
}

/// `int`.
fn whole(value: Value, given: Rest<Value>, kwargs: Kwargs) -> Made {
    let [usual, base] = arguments(&given, &kwargs, ["default", "base"])?;
    defined(&value)?;
    let usual = usual.unwrap_or_else(|| Value::from(0));
    let base = base.map_or(Some(10), |base| base.as_i64());
    if let Some(text) = value.as_str() {
        let text = digits(text).filter(|text| text.is_ascii());
        let (sign, number) = match text.as_deref().map(|text| (text.strip_prefix('-'), text)) {
            Some((Some(number), _)) => (-1, Some(number)),
            Some((None, text)) => (1, Some(text.strip_prefix('+').unwrap_or(text))),
            None => (1, None),
        };
        let prefix = |base| match base {
            2 => ["0b", "0B"],
            8 => ["0o", "0O"],
            16 => ["0x", "0X"],
            _ => ["", ""],
        };
        let base = match base {
            Some(base @ (2 | 8 | 10 | 16)) => base as u32,
            _ => return Err(wrong("int has a base that is not supported")),
        };
        let bare = |number: &str| {
            let prefixed = prefix(base).into_iter().find_map(|prefix| number.strip_prefix(prefix));
            prefixed.unwrap_or(number).to_string()
        };
        let number =
            number.map(bare).filter(|number| !number.is_empty() && number.chars().all(|c| c.is_digit(base)));
        if let Some(number) = number {
            let number = i64::from_str_radix(&number, base);
            let number = number.map_err(|_| wrong("whole numbers of more than 64 bits are not supported"))?;
            return Ok(Value::from(sign * number));
        }
        let number = value.as_str().and_then(real_of).filter(|number| number.is_finite());
        return Ok(number.map(truncated).transpose()?.flatten().unwrap_or(usual));
    }
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => value,
        ValueKind::Number => truncated(f64::try_from(value)?)?.unwrap_or(usual),
        _ => usual,
    })
}

/// `float`.
fn real(value: Value, given: Rest<Value>, kwargs: Kwargs) -> Made {
    let [usual] = arguments(&given, &kwargs, ["default"])?;
    defined(&value)?;
    let number = match (value.as_str(), value.kind()) {
        (Some(text), _) => real_of(text),
        (None, ValueKind::Bool) => Some(f64::from(u8::from(value.is_true()))),
        (None, ValueKind::Number) => Some(f64::try_from(value)?),
        _ => None,
    };
    Ok(number.map(Value::from).or(usual).unwrap_or_else(|| Value::from(0.0)))
}

/// `round`: up and down to what is always a float.
fn rounded(value: Value, given: Rest<Value>, kwargs: Kwargs) -> Made {
    let [precision, method] = arguments(&given, &kwargs, ["precision", "method"])?;
    let precision = precision.map_or(Some(0), |precision| precision.as_i64()?.try_into().ok());
    let precision = precision.ok_or_else(|| wrong("round has a precision that is no whole number"))?;
    let method = method.as_ref().map_or(Some("common"), |method| method.as_str());
    let value = match value.kind() {
        ValueKind::Number | ValueKind::Bool if method != Some("common") => Value::from(f64::try_from(value)?),
        _ => value,
    };
    let nothing = std::iter::empty::<(&str, Value)>().collect();
    minijinja::filters::round(value, Some(precision), Some(method.unwrap_or_default()), nothing)
}
