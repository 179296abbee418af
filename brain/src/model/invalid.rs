//! What is wrong with the values of a request: the API's `{attribute: [sentence, …]}`.

use std::{collections::BTreeMap, fmt};

/// Complaints by attribute. Empty when nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Invalid {
    complaints: BTreeMap<String, Complaint>,
}

/// What is wrong with one attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// Sentences without their subject, as `can't be blank`.
    Sentences(Vec<String>),
    /// The attribute is a list: one entry a member, empty for those in order.
    List(Vec<Invalid>),
}

impl Invalid {
    /// One complaint and nothing else.
    pub fn of(attribute: &str, sentence: impl Into<String>) -> Self {
        let mut invalid = Self::default();
        invalid.add(attribute, sentence);
        invalid
    }

    /// True when there is no complaint.
    pub fn is_empty(&self) -> bool {
        self.complaints.is_empty()
    }

    /// The complaints, by attribute.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Complaint)> {
        self.complaints.iter().map(|(name, complaint)| (name.as_str(), complaint))
    }

    /// Whether something is wrong with this attribute.
    pub fn has(&self, attribute: &str) -> bool {
        self.complaints.contains_key(attribute)
    }

    /// What is wrong with the members of a list; empty when nothing is known to be.
    pub fn list(&self, attribute: &str) -> &[Self] {
        match self.complaints.get(attribute) {
            Some(Complaint::List(members)) => members,
            _ => &[],
        }
    }

    /// Adds a sentence to what is wrong with `attribute`.
    pub fn add(&mut self, attribute: &str, sentence: impl Into<String>) {
        let complaint = self.complaints.entry(attribute.to_owned()).or_insert_with(|| Complaint::Sentences(Vec::new()));
        if let Complaint::Sentences(sentences) = complaint {
            sentences.push(sentence.into());
        }
    }

    /// Adds what is wrong with the members of a list, by position.
    pub fn add_list(&mut self, attribute: &str, members: Vec<Self>) {
        if members.iter().all(Self::is_empty) {
            return;
        }
        match self.complaints.get_mut(attribute) {
            Some(Complaint::List(known)) => {
                known.resize_with(known.len().max(members.len()), Self::default);
                known.iter_mut().zip(members).for_each(|(known, more)| known.merge(more));
            }
            _ => drop(self.complaints.insert(attribute.to_owned(), Complaint::List(members))),
        }
    }

    /// Without what is wrong with attributes that `known` complains of already.
    #[must_use]
    pub fn without(mut self, known: &Self) -> Self {
        self.complaints.retain(|attribute, _| !known.has(attribute));
        self
    }

    /// Takes over the complaints of another.
    pub fn merge(&mut self, other: Self) {
        for (attribute, complaint) in other.complaints {
            match complaint {
                Complaint::Sentences(sentences) => sentences.into_iter().for_each(|s| self.add(&attribute, s)),
                Complaint::List(members) => self.add_list(&attribute, members),
            }
        }
    }

    /// Ok when nothing is wrong.
    ///
    /// # Errors
    /// Itself otherwise.
    pub fn result(self) -> Result<(), Self> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(self),
        }
    }
}

/// `size: is not a number; discs 2: label: is invalid`, for an operator's shell.
impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (attribute, complaint) in self.iter() {
            match complaint {
                Complaint::Sentences(sentences) => parts.push(format!("{attribute}: {}", sentences.join(", "))),
                Complaint::List(members) => {
                    let wrong = members.iter().enumerate().filter(|(_, member)| !member.is_empty());
                    parts.extend(wrong.map(|(position, member)| format!("{attribute} {}: {member}", position + 1)));
                }
            }
        }
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_add_up() {
        let mut invalid = Invalid::of("name", "can't be blank");
        invalid.add("name", "is invalid");
        invalid.add_list("discs", vec![Invalid::default(), Invalid::default()]);
        assert!(!invalid.has("discs"), "a list in order is no complaint");
        invalid.add_list("discs", vec![Invalid::default(), Invalid::of("size", "is not a number")]);
        invalid.add_list("discs", vec![Invalid::of("label", "is invalid")]);
        let expected =
            Complaint::List(vec![Invalid::of("label", "is invalid"), Invalid::of("size", "is not a number")]);
        assert_eq!(invalid.iter().find(|(name, _)| *name == "discs").unwrap().1, &expected);
        assert_eq!(
            invalid.to_string(),
            "discs 1: label: is invalid; discs 2: size: is not a number; name: can't be blank, is invalid"
        );
        assert!(invalid.result().is_err());
        assert!(Invalid::default().result().is_ok());
    }
}
