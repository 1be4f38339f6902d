//! The table of measures: all numbers that describe a tensor. Records, the cache, reports, tables on the
//! terminal and the browser go through [`MEASURES`] and show each measure where its line says. A new one is a file
//! here, which holds an [`Accumulate`] and a [`Measure`], and its line in the table.

mod accumulate;
mod fields;
mod flat;
mod kurtosis;
mod repeated;
mod runs;

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

use crate::record::TensorRecord;
pub(crate) use accumulate::Accumulators;
pub use accumulate::{Accumulate, Accumulator, accumulator};
pub use fields::STD;
pub(crate) use flat::KEY as FLAT;
pub(crate) use kurtosis::KEY as TAILS;
pub(crate) use repeated::KEY as REPEATED;

/// Every measure, in the order in which they are shown.
pub static MEASURES: &[Measure] = &[
    fields::COUNT,
    fields::MEAN,
    fields::STD,
    fields::MIN,
    fields::MAX,
    fields::ABS_MEAN,
    fields::ABS_MAX,
    kurtosis::MEASURE,
    fields::ZEROS,
    fields::ZERO_SHARE,
    runs::ZERO_RUN,
    runs::ZERO_RUN_AT,
    runs::CONSTANT_RUN,
    flat::MEASURE,
    repeated::MEASURE,
    fields::NAN,
    fields::INF,
    fields::NEG,
    fields::ZERO,
    fields::POS,
    fields::ENTROPY_BITS,
    fields::SCALE,
    fields::DEAD_ROWS,
    fields::DEAD_COLS,
];

/// One number that is measured for a tensor.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Measure {
    /// Its key in JSON and its column in CSV. Never changed.
    pub key: &'static str,
    /// Its full name.
    pub heading: &'static str,
    /// Its name in at most eleven characters.
    pub label: &'static str,
    /// What it is, in a sentence.
    pub explanation: &'static str,
    /// What kind of number it is.
    pub form: Form,
    /// What is measured.
    pub part: Part,
    /// Where it is shown.
    pub places: &'static [Place],
    /// Where its value comes from.
    pub source: Source,
}

/// The kind of a number, which decides how it is formatted.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Form {
    /// Any real number.
    Real,
    /// A factor, which a packing may have lost.
    Scale,
    /// From 0 to 1.
    Share,
    /// Bits of information.
    Bits {
        /// At most this many.
        most: f64,
    },
    /// Elements.
    Count,
    /// Elements, of which there may be some or many.
    Part,
    /// Elements that a healthy tensor has none of.
    Faults,
    /// Rows of the matrix.
    Rows,
    /// Columns of the matrix.
    Columns,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The elements as real numbers.
    Elements,
    /// The codes of a ternary matrix.
    Codes,
}

/// A place where measures are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// A column of CSV.
    Csv,
    /// For each layer at each step, in the JSON of a report; and lists can be sorted by it.
    Layers,
    /// A column wherever tensors are listed.
    Narrow,
    /// A column of lists on the terminal.
    List,
    /// A column of lists on the terminal, the first to go where there is little room.
    Wide,
    /// A column of the table in the HTML report.
    Table,
    /// What the HTML report shows below a tensor's histogram.
    Details,
    /// The page of one tensor, on the terminal and in the browser.
    Page,
}

/// Where a measure's value comes from.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Source {
    /// A field of the record.
    Field(fn(&TensorRecord) -> Option<Value>),
    /// The elements: an accumulator from [`accumulator`] sees all of them, and the record has the value among
    /// [`Computed`].
    Elements(fn() -> Box<dyn Accumulator>),
}

/// A measured number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Value {
    /// A real one.
    Real(f64),
    /// An exact count.
    Count(u64),
}

impl Value {
    /// As a real number.
    pub fn real(self) -> f64 {
        match self {
            Value::Real(value) => value,
            Value::Count(count) => count as f64,
        }
    }
}

/// The key identifies a measure.
impl PartialEq for Measure {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Measure {}

impl Measure {
    /// Its value for `tensor`, if it was measured and exists.
    pub fn value(&self, tensor: &TensorRecord) -> Option<Value> {
        match self.source {
            Source::Field(read) => read(tensor),
            Source::Elements(_) => tensor.stats.as_ref()?.computed.get(self.key).map(Value::Real),
        }
    }

    /// The same as a real number.
    pub fn real(&self, tensor: &TensorRecord) -> Option<f64> {
        self.value(tensor).map(Value::real)
    }

    /// Whether it is shown in `place`.
    pub fn is_in(&self, place: Place) -> bool {
        self.places.contains(&place)
    }

    /// Whether it is computed from the elements rather than a field of the record.
    pub fn is_computed(&self) -> bool {
        matches!(self.source, Source::Elements(_))
    }
}

/// The measures that are shown in `place`.
pub fn shown_in(place: Place) -> impl Iterator<Item = &'static Measure> + Clone {
    MEASURES.iter().filter(move |m| m.is_in(place))
}

/// The measures that are computed from the elements.
pub fn computed() -> impl Iterator<Item = &'static Measure> + Clone {
    MEASURES.iter().filter(|m| m.is_computed())
}

/// The number of measures that are computed from the elements.
const COMPUTED: usize = {
    let (mut n, mut i) = (0, 0);
    while i < MEASURES.len() {
        n += matches!(MEASURES[i].source, Source::Elements(_)) as usize;
        i += 1;
    }
    n
};

/// Values of the measures that are computed from a tensor's elements. In JSON they are keys among the statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Computed {
    values: [f64; COMPUTED],
    /// Which of them there are, by their bits. An `Option` each would take twice the room, of a million tensors.
    known: u8,
}

const _: () = assert!(COMPUTED <= u8::BITS as usize);

impl Computed {
    /// The value of the measure with this key.
    pub fn get(&self, key: &str) -> Option<f64> {
        self.at(computed().position(|m| m.key == key)?)
    }

    fn at(&self, place: usize) -> Option<f64> {
        (self.known >> place & 1 == 1).then_some(self.values[place])
    }

    fn set(&mut self, place: usize, value: Option<f64>) {
        self.known = self.known & !(1 << place) | u8::from(value.is_some()) << place;
        self.values[place] = value.unwrap_or_default();
    }

    fn collect(values: impl Iterator<Item = Option<f64>>) -> Self {
        let mut all = Computed::default();
        values.take(COMPUTED).enumerate().for_each(|(place, value)| all.set(place, value));
        all
    }
}

impl Serialize for Computed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(COMPUTED))?;
        for (place, measure) in computed().enumerate() {
            map.serialize_entry(measure.key, &self.at(place))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Computed {
    /// Measures that an older record lacks are unknown.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Computed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("measures by key")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Computed, A::Error> {
                let mut all = Computed::default();
                while let Some(key) = map.next_key::<String>()? {
                    match computed().position(|m| m.key == key) {
                        // In a flattened field a number may arrive as serde_json's own type, depending on features that
                        // any crate of the build can turn on.
                        Some(place) => {
                            all.set(place, map.next_value::<Option<Number>>()?.and_then(|n| n.as_f64()))
                        }
                        None => map.next_value::<IgnoredAny>().map(drop)?,
                    }
                }
                Ok(all)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stats;

    #[test]
    fn lines_can_be_distinguished_and_labels_fit() {
        for (i, measure) in MEASURES.iter().enumerate() {
            assert!(MEASURES[..i].iter().all(|m| m.key != measure.key), "{}", measure.key);
            assert!(measure.label.chars().count() <= 11, "{}", measure.label);
            assert!(measure.explanation.ends_with('.'), "{}", measure.explanation);
            assert!(measure.key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", measure.key);
        }
    }

    /// The keys of the statistics are those of the table, and a record that lacks a computed one reads as one in which
    /// it is unknown.
    #[test]
    fn computed_measures_are_keys_among_the_statistics() {
        let values = (0..).map(|i| (i % 2 == 0).then_some(f64::from(i) + 0.5));
        let stats = Stats { count: 3, computed: Computed::collect(values), ..Stats::default() };
        let json = serde_json::to_value(&stats).unwrap();
        for measure in computed() {
            assert_eq!(json[measure.key], serde_json::json!(stats.computed.get(measure.key)));
        }
        assert_eq!(serde_json::from_value::<Stats>(json.clone()).unwrap(), stats);
        assert_eq!(serde_json::from_str::<Stats>(&json.to_string()).unwrap(), stats);
        let mut older = json;
        older.as_object_mut().unwrap().retain(|key, _| computed().all(|m| m.key != key));
        older["unheard_of"] = 3.into();
        let read: Stats = serde_json::from_value(older).unwrap();
        assert_eq!((read.count, read.computed), (3, Computed::default()));
    }
}
