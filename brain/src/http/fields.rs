//! Reads the attributes of a JSON body as leniently as old clients need: numbers as text, nulls,
//! attributes that nobody knows. What is wrong is gathered, not thrown at the first.

use crate::model::invalid::Invalid;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Attributes that are named as ignored, at most: the header has to stay short.
const IGNORED_MAX: usize = 32;
/// Longest list of objects that is read.
const LIST_MAX: usize = 64;
/// Longest list of names that is read: all the discs of a tail.
const TEXTS_MAX: usize = 16_384;

/// One attribute of a body.
#[derive(Clone, Debug, PartialEq)]
pub enum Field<T> {
    /// It is not there, or cannot be read, which has been complained of.
    Absent,
    /// It is null.
    Null,
    /// It is there.
    Value(T),
}

impl<T> Field<T> {
    /// The value; null is as good as absent.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    /// A change: nothing when absent, a clearing when null.
    pub fn change(self) -> Option<Option<T>> {
        match self {
            Self::Absent => None,
            Self::Null => Some(None),
            Self::Value(value) => Some(Some(value)),
        }
    }
}

/// An object being read.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    attributes: Map<String, Value>,
    invalid: Invalid,
    read: BTreeSet<String>,
    ignored: Vec<String>,
}

impl Fields {
    /// Reads this object.
    pub fn new(attributes: Map<String, Value>) -> Self {
        Self { attributes, ..Self::default() }
    }

    /// Text. An empty text is a value.
    pub fn text(&mut self, name: &str) -> Field<String> {
        self.field(name, |value| match value {
            // PostgreSQL has no place for a NUL in a text.
            Value::String(text) if !text.contains('\0') => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            _ => Err("is invalid"),
        })
    }

    /// A whole number, or text that is one.
    pub fn integer(&mut self, name: &str) -> Field<i64> {
        self.field(name, |value| {
            let number = match &value {
                Value::Number(number) => number.as_i64(),
                Value::String(text) => text.trim().parse().ok(),
                _ => None,
            };
            number.ok_or("is not a number")
        })
    }

    /// True or false, or text or a number that says so.
    pub fn boolean(&mut self, name: &str) -> Field<bool> {
        self.field(name, |value| match &value {
            Value::Bool(value) => Ok(*value),
            Value::String(text) if matches!(text.as_str(), "true" | "True" | "1") => Ok(true),
            Value::String(text) if matches!(text.as_str(), "false" | "False" | "0") => Ok(false),
            Value::Number(number) if number.as_i64() == Some(1) => Ok(true),
            Value::Number(number) if number.as_i64() == Some(0) => Ok(false),
            _ => Err("is not included in the list"),
        })
    }

    /// An object, to be read and then given back to [`Fields::take_object`].
    pub fn object(&mut self, name: &str) -> Field<Fields> {
        self.field(name, |value| match value {
            Value::Object(attributes) => Ok(Self::new(attributes)),
            _ => Err("is invalid"),
        })
    }

    /// A list of objects, to be read and then given back to [`Fields::take_list`].
    pub fn list(&mut self, name: &str) -> Field<Vec<Fields>> {
        self.field(name, |value| {
            let Value::Array(members) = value else { return Err("is invalid") };
            if members.len() > LIST_MAX {
                return Err("has too many members");
            }
            let object = |member| match member {
                Value::Object(attributes) => Some(Self::new(attributes)),
                _ => None,
            };
            members.into_iter().map(object).collect::<Option<_>>().ok_or("is invalid")
        })
    }

    /// A list of texts or numbers, as people name things.
    pub fn texts(&mut self, name: &str) -> Field<Vec<String>> {
        self.field(name, |value| {
            let Value::Array(members) = value else { return Err("is invalid") };
            if members.len() > TEXTS_MAX {
                return Err("has too many members");
            }
            let text = |member| match member {
                Value::String(text) if !text.contains('\0') => Some(text),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            };
            members.into_iter().map(text).collect::<Option<_>>().ok_or("is invalid")
        })
    }

    /// Takes over what was found in an object of this one: what is wrong in it is said as if of this
    /// one, which is how clients know it.
    pub fn take_object(&mut self, name: &str, inner: Fields) {
        let (invalid, ignored) = inner.finish();
        self.invalid.merge(invalid);
        self.ignored.extend(ignored.into_iter().map(|inner| format!("{name}.{inner}")));
    }

    /// Takes over what was found in a list of this one.
    pub fn take_list(&mut self, name: &str, members: Vec<Fields>) {
        let mut complaints = Vec::with_capacity(members.len());
        for (position, member) in members.into_iter().enumerate() {
            let (invalid, ignored) = member.finish();
            complaints.push(invalid);
            self.ignored.extend(ignored.into_iter().map(|inner| format!("{name}.{position}.{inner}")));
        }
        self.invalid.add_list(name, complaints);
    }

    /// Complains of an attribute.
    pub fn complain(&mut self, name: &str, sentence: &str) {
        self.invalid.add(name, sentence);
    }

    /// Says that an attribute is known and not acted on.
    pub fn ignore(&mut self, name: &str) {
        if self.attributes.remove(name).is_some_and(|value| !value.is_null()) {
            self.ignored.push(name.to_owned());
        }
    }

    /// Says that an attribute is part of what is shown and means nothing here: clients send whole
    /// objects back.
    pub fn skip(&mut self, names: &[&str]) {
        for name in names {
            self.attributes.remove(*name);
        }
    }

    /// What is wrong, and the names of what was not read.
    pub fn finish(mut self) -> (Invalid, Vec<String>) {
        self.ignored.extend(self.attributes.into_iter().map(|(name, _)| name));
        self.ignored.truncate(IGNORED_MAX);
        (self.invalid, self.ignored)
    }

    fn field<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Result<T, &'static str>) -> Field<T> {
        debug_assert!(self.read.insert(name.to_owned()), "{name} is read twice");
        match self.attributes.remove(name) {
            None => Field::Absent,
            Some(Value::Null) => Field::Null,
            Some(value) => match read(value) {
                Ok(value) => Field::Value(value),
                Err(sentence) => {
                    self.invalid.add(name, sentence);
                    Field::Absent
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        match value {
            Value::Object(attributes) => Fields::new(attributes),
            _ => panic!("tests read objects"),
        }
    }

    #[test]
    fn numbers_and_booleans_may_be_text() {
        let mut body = fields(json!({"cores": "1", "memory": 1024, "on": "True", "off": 0, "cdrom_url": null}));
        assert_eq!(body.integer("cores"), Field::Value(1));
        assert_eq!(body.integer("memory"), Field::Value(1024));
        assert_eq!(body.boolean("on"), Field::Value(true));
        assert_eq!(body.boolean("off"), Field::Value(false));
        assert_eq!(body.text("cdrom_url").change(), Some(None), "null clears");
        assert_eq!(body.text("name").change(), None);
        assert_eq!(body.finish(), (Invalid::default(), vec![]));
    }

    #[test]
    fn every_complaint_is_gathered() {
        let mut body = fields(json!({"a": "x", "b": [], "c": 1.5, "d": "\u{0}", "e": {}, "f": "maybe"}));
        for name in ["a", "b", "c"] {
            assert_eq!(body.integer(name), Field::Absent);
        }
        assert_eq!(body.text("d"), Field::Absent);
        assert!(matches!(body.list("e"), Field::Absent));
        assert_eq!(body.boolean("f"), Field::Absent);
        let (invalid, _) = body.finish();
        for name in ["a", "b", "c", "d", "e", "f"] {
            assert!(invalid.has(name), "{name}");
        }
    }

    #[test]
    fn what_is_not_read_is_named_with_its_place() {
        let mut body = fields(json!({"type": "x", "discs": [{"size": 1}, {"size": 2, "colour": "red"}]}));
        let mut discs = body.list("discs").value().unwrap();
        for disc in &mut discs {
            disc.integer("size");
        }
        body.take_list("discs", discs);
        assert_eq!(body.finish().1, ["discs.1.colour", "type"]);
    }

    #[test]
    fn lists_are_bounded() {
        let mut body = fields(json!({"discs": vec![json!({}); 1000], "mixed": [{}, 1]}));
        assert!(matches!(body.list("discs"), Field::Absent));
        assert!(matches!(body.list("mixed"), Field::Absent));
        assert!(body.finish().0.has("discs"));
    }
}
