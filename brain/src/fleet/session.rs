//! One connection, from hello to its end.
