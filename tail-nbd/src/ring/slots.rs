//! A table with a fixed number of places, whose tokens go stale when a place is used again.

/// Names one use of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// As one number, for the kernel to carry.
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Back from the number. Any number gives a token; a table knows which ones are alive.
    pub fn from_u64(number: u64) -> Self {
        Self { index: number as u32, generation: (number >> 32) as u32 }
    }
}

/// The table. Its memory is taken at once and never moves.
#[derive(Debug)]
pub struct Slots<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    places_max: usize,
    /// How often a place was looked at.
    #[cfg(test)]
    looks_count: std::cell::Cell<u64>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slots<T> {
    /// A table of so many places.
    pub fn new(places_max: usize) -> Self {
        assert!(u32::try_from(places_max).is_ok(), "an index has 32 bits");
        Self {
            places: Vec::with_capacity(places_max),
            free: Vec::with_capacity(places_max),
            places_max,
            #[cfg(test)]
            looks_count: Default::default(),
        }
    }

    /// Puts a value in.
    ///
    /// # Errors
    /// With the value, when the table is full.
    pub fn insert(&mut self, value: T) -> Result<Token, T> {
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            debug_assert!(place.value.is_none());
            place.value = Some(value);
            return Ok(Token { index, generation: place.generation });
        }
        if self.places.len() == self.places_max {
            return Err(value);
        }
        let index = self.places.len() as u32;
        self.places.push(Place { generation: 0, value: Some(value) });
        Ok(Token { index, generation: 0 })
    }

    /// The value of a token, if it is alive.
    pub fn get(&self, token: Token) -> Option<&T> {
        #[cfg(test)]
        self.looks_count.update(|count| count + 1);
        let place = self.places.get(token.index as usize)?;
        if place.generation == token.generation { place.value.as_ref() } else { None }
    }

    /// The value of a token, if it is alive.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        #[cfg(test)]
        self.looks_count.update(|count| count + 1);
        let place = self.places.get_mut(token.index as usize)?;
        if place.generation == token.generation { place.value.as_mut() } else { None }
    }

    /// Takes a value out; its token is dead from now on.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let place = self.places.get_mut(token.index as usize)?;
        if place.generation != token.generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(token.index);
        Some(value)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when nothing more goes in.
    pub fn is_full(&self) -> bool {
        self.len() == self.places_max
    }

    /// All values with their tokens.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            #[cfg(test)]
            self.looks_count.update(|count| count + 1);
            let token = Token { index: index as u32, generation: place.generation };
            place.value.as_ref().map(|value| (token, value))
        })
    }

    /// How often a place was looked at since the start.
    #[cfg(test)]
    pub fn looks_count(&self) -> u64 {
        self.looks_count.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_dies_with_its_value() {
        let mut slots = Slots::new(2);
        let first = slots.insert("first").unwrap();
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second").unwrap();
        assert_ne!(first, second, "the place is the same, the token is not");
        assert_eq!((slots.get(first), slots.get(second)), (None, Some(&"second")));
        assert_eq!(slots.remove(first), None);
        assert_eq!(Token::from_u64(second.to_u64()), second);
    }

    #[test]
    fn a_full_table_gives_the_value_back() {
        let mut slots = Slots::new(1);
        slots.insert(1).unwrap();
        assert!(slots.is_full());
        assert_eq!(slots.insert(2), Err(2));
        assert_eq!(slots.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [1]);
    }
}
