//! What the exit codes mean. Scripts rely on them: a number never changes its meaning.

use std::process::ExitCode;

/// How a run of `bigv` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was done, or help was shown.
    Ok = 0,
    /// A fault in `bigv` itself.
    Bug = 1,
    /// The profile cannot be read or is wrong.
    Config = 3,
    /// The profile cannot be written.
    ConfigWrite = 4,
    /// The question whether to go on was answered with no.
    Declined = 5,
    /// Bad input, or something is missing and may not be asked for.
    BadInput = 7,
    /// A program that `bigv` starts (ssh) could not be started.
    Subprocess = 8,
    /// No account was named, and there is not exactly one to take.
    NoAccount = 9,
    /// The operation was accepted and then failed.
    Failed = 10,
    /// The operation goes on, but the time to wait for it is up.
    StillGoing = 11,
    /// The brain does not accept the user name and password.
    Credentials = 53,
    /// The brain cannot be reached, does not answer in time, or says that it is unavailable.
    Unreachable = 150,
    /// The brain met an internal error.
    Internal = 152,
    /// You may see it but not do this to it.
    Forbidden = 155,
    /// It does not exist, or you may not see it.
    NotFound = 156,
    /// The brain refused the values it was given.
    BadRequest = 157,
    /// The brain's answer makes no sense to this version of `bigv`.
    UnknownAnswer = 249,
    /// Interrupted by Ctrl-C. What was asked of the brain goes on.
    Interrupted = 255,
}

impl Exit {
    /// Every code, in order, with its meaning: what `bigv help exit-codes` shows.
    pub const ALL: [(Exit, &'static str); 18] = [
        (Exit::Ok, "it was done, or help was shown"),
        (Exit::Bug, "a fault in bigv itself"),
        (Exit::Config, "the profile cannot be read or is wrong"),
        (Exit::ConfigWrite, "the profile cannot be written"),
        (Exit::Declined, "the question whether to go on was answered with no"),
        (Exit::BadInput, "bad input, or something is missing and may not be asked for"),
        (Exit::Subprocess, "a program that bigv starts (ssh) could not be started"),
        (Exit::NoAccount, "no account was named, and there is not exactly one to take"),
        (Exit::Failed, "the operation was accepted and then failed"),
        (Exit::StillGoing, "the operation goes on, but the time to wait for it is up"),
        (Exit::Credentials, "the brain does not accept the user name and password"),
        (Exit::Unreachable, "the brain cannot be reached, does not answer in time, or is unavailable"),
        (Exit::Internal, "the brain met an internal error"),
        (Exit::Forbidden, "you may see it but not do this to it"),
        (Exit::NotFound, "it does not exist, or you may not see it"),
        (Exit::BadRequest, "the brain refused the values it was given"),
        (Exit::UnknownAnswer, "the brain's answer makes no sense to this version of bigv"),
        (Exit::Interrupted, "interrupted by Ctrl-C; what was asked of the brain goes on"),
    ];

    /// The number a shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}
