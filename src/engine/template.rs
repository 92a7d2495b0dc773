//! Chat templates: they render the messages of a conversation to the prompt.
//!
//! A model's file contains its template (`tokenizer.chat_template`), written in Jinja for Hugging
//! Face's `transformers`. This file reproduces that environment: its variables, functions, white
//! space rules and `tojson`. A template is untrusted code, so it has no access to files or the
//! network, and an instruction budget (`fuel`) ends it.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::Serialize;

use super::tokenizer::{Shield, Tokenizer};
use crate::error::{Code, Failure, Result};
use crate::models::gguf::Metadata;

/// The metadata key of the template.
const KEY: &str = "tokenizer.chat_template";

/// `ChatML`, for a file without a template: most models saw it in training.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Marks the message of an error that the template raised with `raise_exception`.
const RAISED: &str = "the template refuses: ";

/// The author of a message: the roles that `/v1/chat/completions` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions. OpenAI's newer role `developer` becomes this one, which templates know.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

/// One message of a conversation.
#[derive(Clone, Debug, Serialize)]
pub struct Message {
    /// The author.
    pub role: Role,
    /// The text.
    pub content: String,
    /// The participant's name, if the request gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The compiled template of one model.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The template's text.
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles the template of a model's file, or `ChatML` if the file has none.
    ///
    /// # Errors
    /// `model_unsupported` for a template that does not compile, with its line.
    pub fn from_metadata(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Self> {
        let source = metadata.str(KEY).unwrap_or_else(|| {
            tracing::warn!("the model has no chat template: using ChatML");
            CHATML
        });
        let spelling = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default().to_owned();
        Self::new(source, spelling(tokenizer.bos()), spelling(tokenizer.eos()))
    }

    fn new(source: &str, bos: String, eos: String) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|error| {
                Failure::internal(format!("the template engine refused its settings: {error}"))
            })?,
        );
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
        });
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.add_template_owned("chat", source.to_owned()).map_err(|error| {
            Failure::new(
                Code::ModelUnsupported,
                format!("{KEY}: the template does not compile, line {}", error.line().unwrap_or(1)),
            )
            .hint("use a version of the model with another chat template")
            .cause(&error)
        })?;
        Ok(Self { environment, source: source.to_owned(), bos, eos })
    }

    /// The tokens of a prompt that ends where the assistant's next message begins. Special tokens
    /// come only from the template, never from a message (see [`Shield`]).
    ///
    /// # Errors
    /// `invalid_field` if the template refuses the messages, `model_unsupported` if it fails or
    /// does not end.
    pub fn prompt(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
        let texts = messages
            .iter()
            .flat_map(|message| [Some(message.content.as_str()), message.name.as_deref()])
            .flatten();
        let shield = Shield::for_texts(texts.chain([self.source.as_str()]));
        let special_tokens = tokenizer.special_tokens();
        let shielded: Vec<Message> = messages
            .iter()
            .map(|message| Message {
                role: message.role,
                content: shield.cover(special_tokens, &message.content),
                name: message.name.as_deref().map(|name| shield.cover(special_tokens, name)),
            })
            .collect();
        let bytes = shielded.iter().map(|message| message.content.len()).sum();
        tokenizer.encode_prompt(&self.render(&shielded, bytes)?, &shield)
    }

    fn render(&self, messages: &[Message], bytes: usize) -> Result<String> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel(messages.len(), bytes)));
        environment
            .get_template("chat")
            .and_then(|template| {
                template.render(context! {
                    messages => Value::from(Serde(messages)),
                    add_generation_prompt => true,
                    bos_token => self.bos.as_str(),
                    eos_token => self.eos.as_str(),
                    // `transformers` passes these two, and templates compare them with none.
                    tools => Value::from(()),
                    documents => Value::from(()),
                })
            })
            .map_err(|error| render_failure(&error))
    }
}

/// How many instructions a template may execute; minijinja also charges one per 64 bytes created.
/// A published template needs a few hundred per message.
fn fuel(messages: usize, bytes: usize) -> u64 {
    let per_message = u64::try_from(messages).unwrap_or(u64::MAX).saturating_mul(10_000);
    let per_byte = u64::try_from(bytes).unwrap_or(u64::MAX);
    per_message.saturating_add(per_byte).saturating_add(200_000).min(20_000_000)
}

/// The failure of a template that raised an exception, ran out of fuel or failed otherwise.
fn render_failure(error: &Error) -> Failure {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let detail = cause.downcast_ref::<Error>().and_then(Error::detail);
        if let Some(reason) = detail.and_then(|detail| detail.strip_prefix(RAISED)) {
            return Failure::new(
                Code::InvalidField,
                format!("the model's chat template refuses the messages: {reason}"),
            )
            .hint("change the order or the roles of the messages");
        }
        next = cause.source();
    }
    let problem = match error.kind() {
        ErrorKind::OutOfFuel => "does not end".to_owned(),
        _ => format!("fails at line {}", error.line().unwrap_or(1)),
    };
    Failure::new(Code::ModelUnsupported, format!("the model's chat template {problem}"))
        .hint("use a version of the model with another chat template")
        .cause(error)
}

/// The local time in a format of C's `strftime`.
fn strftime_now(format: String) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now())
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// Python's `json.dumps(value, ensure_ascii=False)`, as `transformers` has it. Unlike Jinja's own
/// filter, it does not escape HTML and puts a space after `,` and `:`.
fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        options.get::<Option<Value>>(ignored)?;
    }
    options.assert_all_used()?;
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut json = Vec::new();
    match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value
                .serialize(&mut serde_json::Serializer::with_formatter(&mut json, formatter))
                .map_err(failed)?;
        }
        None => {
            value
                .serialize(&mut serde_json::Serializer::with_formatter(&mut json, PythonSeparators))
                .map_err(failed)?;
        }
    }
    // minijinja does not escape the output of a template whose name has no extension.
    Ok(Value::from(String::from_utf8_lossy(&json).into_owned()))
}

/// Writes the separators of Python's `json`.
struct PythonSeparators;

impl serde_json::ser::Formatter for PythonSeparators {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned(), name: None }
    }

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        ChatTemplate::new(source, "<s>".into(), "</s>".into())?.render(messages, 100)
    }

    #[test]
    fn the_default_template_renders_chatml() {
        let text = render(CHATML, &[message(Role::System, "Be brief."), message(Role::User, "Hi")]).unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn white_space_around_blocks_is_removed_as_in_transformers() {
        // lstrip_blocks takes the indentation before a block, trim_blocks the newline after it.
        let source =
            "{{ bos_token }}\n  {% for m in messages %}\n{{ m.content | trim }}\n  {% endfor %}\nend";
        let text = render(source, &[message(Role::User, " a "), message(Role::User, "b")]).unwrap();
        assert_eq!(text, "<s>\na\nb\nend");
    }

    #[test]
    fn python_string_methods_and_tojson_work() {
        let source =
            "{% set m = messages[0] %}{{ m.content.strip().upper() }} {{ m | tojson }} {{ tools is none }}";
        let text = render(source, &[message(Role::User, " <é> ")]).unwrap();
        assert_eq!(text, r#"<É> {"role": "user", "content": " <é> "} True"#);
    }

    #[test]
    fn an_exception_of_the_template_is_an_invalid_field_with_its_message() {
        let failure = render("{{ raise_exception('no system role') }}", &[]).unwrap_err();
        assert_eq!(failure.code, Code::InvalidField);
        assert!(failure.message.ends_with("no system role"), "{failure}");
    }

    #[test]
    fn a_template_that_does_not_end_is_stopped() {
        let source = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
        let failure = render(source, &[]).unwrap_err();
        assert_eq!(failure.code, Code::ModelUnsupported);
        assert!(failure.message.contains("does not end"), "{failure}");
    }

    #[test]
    fn a_template_that_does_not_compile_is_refused_with_the_line() {
        let failure = render("a\n{% if %}", &[]).unwrap_err();
        assert_eq!(failure.code, Code::ModelUnsupported);
        assert!(failure.message.contains("line 2"), "{failure}");
    }

    #[test]
    fn the_time_is_formatted_and_an_invalid_format_is_an_error() {
        assert_eq!(render("{{ strftime_now('%Y')[:2] }}", &[]).unwrap(), "20");
        assert!(render("{{ strftime_now('%!') }}", &[]).is_err());
    }
}
