//! What can go wrong, as the user reads it: what, which field and option, what to do, the stable reason and the call's id.

use std::{fmt::Write as _, io};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::output::printable;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// An option's value is missing or wrong; nothing was sent.
    #[error("{option}: {message}")]
    Input {
        /// `--server`, `--ssh-key` …
        option: String,
        /// What was wrong and what would be right.
        message: String,
    },
    /// The control plane could not be reached or trusted.
    #[error("{message}")]
    Connection {
        /// What happened.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// The control plane refused the call or failed in it.
    #[error("{}", .0.message())]
    Call(#[source] Box<Status>),
    /// The call was done, and what came of it is a failure.
    #[error("{0}")]
    Outcome(String),
    /// A file, a directory or a program of this machine.
    #[error("{action}: {source}")]
    Local {
        /// What was being done.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Whoever read our output has gone. Nobody's mistake.
    #[error("the output was closed")]
    OutputClosed,
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

impl CliError {
    /// An option's value is missing or wrong.
    pub(crate) fn input(option: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Input {
            option: option.into(),
            message: message.into(),
        }
    }

    /// Something of this machine failed while `action`.
    pub(crate) fn local(action: impl Into<String>, source: io::Error) -> Self {
        Self::Local {
            action: action.into(),
            source,
        }
    }

    /// What the process exits with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Input { .. } => 2,
            Self::OutputClosed => 0,
            _ => 1,
        }
    }

    /// The text for stderr, without a newline at its end.
    pub(crate) fn render(&self) -> Option<String> {
        match self {
            Self::OutputClosed => None,
            Self::Connection { message, remedy } => {
                Some(format!("error: {message}\n  remedy: {remedy}"))
            }
            Self::Call(status) => Some(render_status(status)),
            other => Some(format!("error: {}", printable(&other.to_string()))),
        }
    }
}

/// True when the call may not have reached the control plane, or it asked for another try. Every call of ours may be repeated.
pub(crate) fn is_transient(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        // A connection that breaks within a call surfaces as one of these, without any details of ours.
        Code::Unknown | Code::Cancelled | Code::Internal => {
            status.get_details_error_info().is_none()
                && status.details().is_empty()
                && is_transport(status)
        }
        Code::Aborted => true,
        _ => false,
    }
}

fn is_transport(status: &Status) -> bool {
    let text = status.message();
    [
        "transport",
        "h2 protocol",
        "connection",
        "broken pipe",
        "stream",
    ]
    .iter()
    .any(|word| text.contains(word))
}

fn render_status(status: &Status) -> String {
    let details = status.get_error_details();
    let message = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    let mut text = format!("error: {}", printable(message));
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {name}: {}", printable(value));
    };
    for violation in details
        .bad_request()
        .map_or(&[][..], |request| &request.field_violations)
    {
        let field = match option_of(&violation.field) {
            Some(option) => format!("{} ({option})", violation.field),
            None => violation.field.clone(),
        };
        if message.contains(&violation.description) {
            line("field", &field);
        } else {
            line("field", &format!("{field}: {}", violation.description));
        }
    }
    for violation in details
        .precondition_failure()
        .map_or(&[][..], |failure| &failure.violations)
    {
        line("because", &violation.description);
    }
    for link in details.help().map_or(&[][..], |help| &help.links) {
        line("see", &format!("{} {}", link.description, link.url));
    }
    let kind = details
        .error_info()
        .and_then(|info| info.metadata.get("kind"));
    match (status.code(), kind) {
        (Code::NotFound, Some(kind)) => line("remedy", &where_to_look(kind)),
        (code, _) => {
            if let Some(remedy) = remedy_of(code) {
                line("remedy", remedy);
            }
        }
    }
    match details.error_info() {
        Some(info) => line("reason", &info.reason),
        None => line("reason", &format!("{:?}", status.code())),
    }
    let call = details
        .request_info()
        .map(|info| info.request_id.clone())
        .or_else(|| details.error_info()?.metadata.get("call_id").cloned());
    if let Some(call) = call.filter(|call| !call.is_empty()) {
        line("call", &call);
    }
    text
}

/// Which list shows the things of a kind that was not found.
fn where_to_look(kind: &str) -> String {
    let command = match kind {
        "lease" => "lease list",
        "host" => "host list",
        "instance type" | "instance_type" => "type list",
        "organization" => "org list",
        "project" => "project list",
        "API key" | "api_key" | "key" => "key list",
        _ => {
            return "check the id or name; --org and --project say where it is looked for"
                .to_owned();
        }
    };
    format!("`freehold {command}` shows what there is; --org and --project say where to look")
}

/// What to do about a code, where the control plane's own message is not about it.
fn remedy_of(code: Code) -> Option<&'static str> {
    match code {
        Code::Unauthenticated => {
            Some("check --token or FREEHOLD_TOKEN; `freehold key create` makes a new key")
        }
        Code::PermissionDenied => {
            Some("use a key whose role allows it; `freehold whoami` shows the role of this one")
        }
        Code::Unimplemented => {
            Some("the control plane does not know this call; use a client of its version")
        }
        Code::Unavailable => Some("try again; if it stays so, ask the operator"),
        Code::DeadlineExceeded => Some("the control plane did not answer in time; try again"),
        Code::Internal => Some("try again; if it stays so, give the operator the call's id"),
        _ => None,
    }
}

/// The option that fills a request's field. Parts of a field (`labels[team]`) count as the field.
fn option_of(field: &str) -> Option<&'static str> {
    let name = field.split(['[', '.']).next().unwrap_or(field);
    Some(match name {
        "action" => "--action",
        "ca" => "--ca",
        "count" | "gpu_count" => "--count",
        "currency" => "--currency",
        "from_time" | "valid_from" => "--from",
        "gpu_model" => "--gpu",
        "group_by" => "--group-by",
        "hours" => "--hours",
        "image" => "--image",
        "instance_type" => "--type",
        "labels" => "--label",
        "memory_gib" => "--memory",
        "micros" => "--micros",
        "minutes" => "--minutes",
        "networks" => "--network",
        "organization" => "--org",
        "page_size" => "--page-size",
        "page_token" => "--page-token",
        "project" => "--project",
        "reason" => "--reason",
        "region" => "--region",
        "request_id" => "--request-id",
        "role" => "--role",
        "rounding" => "--rounding",
        "scratch_gib" => "--scratch",
        "sector" => "--sector",
        "ssh_public_keys" => "--ssh-key",
        "start_time" => "--start",
        "to_time" => "--to",
        "ttl_seconds" => "--expires",
        "uses" => "--uses",
        "vcpus" => "--vcpus",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn rendered(status: Status) -> String {
        CliError::from(status).render().expect("shown")
    }

    #[test]
    fn a_refused_field_names_its_option_the_reason_and_the_call() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("start_time", "lies in the past; give a time from now on");
        details.set_error_info("INVALID_FIELD", "freehold", HashMap::new());
        details.set_request_info("call_0123", "");
        let status = Status::with_error_details(
            Code::InvalidArgument,
            "start_time: lies in the past; give a time from now on",
            details,
        );
        insta::assert_snapshot!(rendered(status), @r"
        error: start_time: lies in the past; give a time from now on
          field: start_time (--start)
          reason: INVALID_FIELD
          call: call_0123
        ");
    }

    #[test]
    fn several_refused_fields_are_all_shown() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("labels[team]", "the value is longer than 255 characters");
        details.add_bad_request_violation("name", "must begin with a letter");
        let status =
            Status::with_error_details(Code::InvalidArgument, "the request is not valid", details);
        insta::assert_snapshot!(rendered(status), @r"
        error: the request is not valid
          field: labels[team] (--label): the value is longer than 255 characters
          field: name: must begin with a letter
          reason: InvalidArgument
        ");
    }

    #[test]
    fn a_refused_token_says_where_tokens_come_from() {
        let text = rendered(Status::unauthenticated(
            "the API key is unknown, revoked or expired",
        ));
        insta::assert_snapshot!(text, @r"
        error: the API key is unknown, revoked or expired
          remedy: check --token or FREEHOLD_TOKEN; `freehold key create` makes a new key
          reason: Unauthenticated
        ");
    }

    #[test]
    fn what_was_not_found_says_where_to_look() {
        let mut details = ErrorDetails::new();
        let metadata = HashMap::from([("kind".to_owned(), "lease".to_owned())]);
        details.set_error_info("NOT_FOUND", "freehold", metadata);
        let message = "no lease `x` was found";
        let text = rendered(Status::with_error_details(Code::NotFound, message, details));
        assert!(text.contains("`freehold lease list`"), "{text}");
    }

    #[test]
    fn control_characters_of_others_never_reach_the_terminal() {
        let text = rendered(Status::not_found("no lease `\u{1b}[2J` was found"));
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn only_what_may_not_have_arrived_is_tried_again() {
        assert!(is_transient(&Status::unavailable("")));
        assert!(is_transient(&Status::unknown("transport error")));
        assert!(!is_transient(&Status::internal("internal error")));
        assert!(!is_transient(&Status::resource_exhausted("no capacity")));
        assert!(!is_transient(&Status::unauthenticated("who are you")));
    }
}
