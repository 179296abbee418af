//! An error and its causes as one sentence, for the places that hold a single text: the spine, a
//! disc's reason, a line of the log.

use std::error::Error;

/// The message of `error`, then those of its causes, with colons between.
pub fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the file")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_follow() {
        let error = Outer(std::io::Error::other("the disk is gone"));
        assert_eq!(describe(&error), "cannot read the file: the disk is gone");
    }
}
