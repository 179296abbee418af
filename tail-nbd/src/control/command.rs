//! A command of the spine as an order about a disc; no I/O.

use crate::store::change::Changes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use spine::{
    id::{DiscName, DiscNumber, Generation, MigrationId, ResourceName},
    message::{Answer, Command, Complaint, Refusal},
    resource::{Attributes, disc::DiscOrder, from_attributes},
};

/// What the brain wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// Make a disc.
    Create(DiscName, Box<DiscOrder>),
    /// Change one.
    Update(DiscName, Box<Changes>),
    /// Delete one.
    Remove(DiscName, Generation, Option<MigrationId>),
}

impl Order {
    /// The disc it is about.
    pub fn number(&self) -> DiscNumber {
        match self {
            Self::Create(name, _) | Self::Update(name, _) | Self::Remove(name, ..) => name.number,
        }
    }

    /// Reads a command.
    ///
    /// # Errors
    /// With the answer that refuses it and names the attribute that is wrong.
    pub fn parse(command: &Command) -> Result<Self, Answer> {
        let ResourceName::Disc(name) = command.name() else {
            let message = format!("a tail has discs only, so it cannot do anything about {}", command.name());
            return Err(Answer::Bad(Complaint { message }));
        };
        let name = name.clone();
        match command {
            Command::Create(_, attributes) => {
                let minimal = json!({"size": 512, "storage_pool": "p", "generation": 0});
                let order = typed::<DiscOrder>(attributes, &minimal).map_err(bad_value)?;
                Ok(Self::Create(name, Box::new(order)))
            }
            Command::Update(_, attributes) => {
                let changes = typed::<Changes>(attributes, &json!({})).map_err(bad_value)?;
                Ok(Self::Update(name, Box::new(changes)))
            }
            Command::Remove(_, attributes) => {
                let removal = typed::<Removal>(attributes, &json!({"generation": 0})).map_err(bad_value)?;
                Ok(Self::Remove(name, removal.generation, removal.aborted))
            }
        }
    }
}

/// `remove disc.GRADE.N {"generation":…}`: which owner's disc is to go (safety rule 8). `aborted` names the migration that
/// its source has given up.
#[derive(Deserialize)]
struct Removal {
    generation: Generation,
    aborted: Option<MigrationId>,
}

/// Reads attributes into a type. When that fails, the parser does not always say which attribute it
/// is about, so each is tried in turn within `minimal`, which would be read.
fn typed<T: DeserializeOwned>(attributes: &Attributes, minimal: &Value) -> Result<T, String> {
    let error = match from_attributes::<T>(attributes) {
        Ok(typed) => return Ok(typed),
        Err(error) => error,
    };
    for (name, value) in attributes {
        let mut alone = minimal.clone();
        alone[name] = value.clone();
        if let Err(error) = serde_json::from_value::<T>(alone) {
            return Err(format!("{name}: {error}"));
        }
    }
    Err(error.to_string())
}

fn bad_value(message: String) -> Answer {
    Answer::No(Refusal { error: "bad-value".to_owned(), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(verb: &str, value: Value) -> Result<Order, Answer> {
        let Value::Object(attributes) = value else { panic!("an object is wanted") };
        let name = "disc.sata.7".parse().unwrap();
        Order::parse(&match verb {
            "create" => Command::Create(name, attributes),
            "update" => Command::Update(name, attributes),
            _ => Command::Remove(name, attributes),
        })
    }

    fn refusal(verb: &str, value: Value) -> String {
        match parse(verb, value) {
            Err(Answer::No(refusal)) if refusal.error == "bad-value" => refusal.message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commands_become_orders() {
        let order = parse("create", json!({"size": 512, "storage_pool": "sata1", "generation": 1})).unwrap();
        assert_eq!(order.number(), DiscNumber(7));
        assert!(matches!(parse("update", json!({"size": 1024})), Ok(Order::Update(..))));
        assert!(matches!(
            parse("remove", json!({"generation": 3, "reason": "…"})),
            Ok(Order::Remove(_, Generation(3), None))
        ));
    }

    #[test]
    fn a_refusal_names_the_attribute() {
        let order = json!({"size": "big", "storage_pool": "sata1", "generation": 1});
        assert!(refusal("create", order).starts_with("size: invalid type"));
        assert!(refusal("create", json!({"size": 512, "generation": 1})).contains("storage_pool"));
        let pool = json!({"size": 512, "storage_pool": "../x", "generation": 1});
        assert!(refusal("create", pool).starts_with("storage_pool: "));
        let image = json!({"size": 512, "storage_pool": "sata1", "generation": 1, "image": "../../etc/passwd"});
        assert!(refusal("create", image).starts_with("image: "));
        assert!(refusal("update", json!({"attachments": [{"head": "x", "key": "k"}]})).starts_with("attachments: "));
        assert!(refusal("update", json!({"size": -1})).starts_with("size: "));
        assert!(refusal("remove", json!({})).contains("generation"));
    }

    #[test]
    fn other_resources_are_not_a_tails() {
        let command = Command::Remove("vm.1".parse().unwrap(), Attributes::new());
        assert!(matches!(Order::parse(&command), Err(Answer::Bad(_))));
    }
}
