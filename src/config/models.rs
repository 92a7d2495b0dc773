//! The settings of single models (`[models."ID"]`).
//!
//! Every field may be unset, which leaves it to the next layer: what operations have set counts more than the
//! file, and the settings of a variant more than those of its model (`settings`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::device::Device;
use super::engine_options::EngineOptions;
use super::keep_alive::KeepAlive;
use super::sampling::Sampling;

/// What the settings say of one model, or of one variant of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// Further names that requests may give; `*` is every name that nothing else has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// `auto`, a kind of device (`cpu`, `cuda`, ...) or the name of an engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// Tokens of context of each slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u64>,
    /// Requests that a worker answers at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// How long a worker that requests have loaded stays without a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<KeepAlive>,
    /// Whether a worker, once loaded, never goes by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// Whether it is loaded when the hive starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preload: Option<bool>,
    /// How answers are sampled where the request does not say.
    #[serde(skip_serializing_if = "is_default")]
    pub sampling: Sampling,
    /// The system prompt of conversations that have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// The file of the chat template to use instead of the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub chat_template: Option<PathBuf>,
    /// The file that turns images or sound into its input.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub projector: Option<PathBuf>,
    /// Options of llama.cpp's server.
    #[serde(skip_serializing_if = "is_default")]
    pub engine_options: EngineOptions,
    /// The model with other settings, by the name behind the `@` of `ID@NAME`. What a variant does not set is
    /// as its model has it, but for `aliases`, `pinned` and `preload`. A variant has no variants.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, ModelSettings>, no_recursion)]
    pub variants: BTreeMap<String, Self>,
}

/// The alias of the model that answers requests for every name that nothing else has.
pub const CATCH_ALL: &str = "*";

/// The most tokens of context that can be set: more than any model was trained for.
const MOST_TOKENS: u64 = 1 << 24;
/// The longest system prompt, in bytes.
const LONGEST_PROMPT: usize = 256 << 10;
/// The longest alias, in bytes: that of an id.
const LONGEST_ALIAS: usize = 255;
/// The longest name of a variant, in bytes.
const LONGEST_VARIANT: usize = 64;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl ModelSettings {
    /// The dotted name of the first setting that cannot work, and what is wrong with it. Looks at the files
    /// that the settings name.
    #[must_use]
    pub fn problem(&self) -> Option<(String, String)> {
        self.own_problem().or_else(|| {
            self.variants.iter().find_map(|(name, variant)| {
                if !is_variant_name(name) {
                    let problem = format!(
                        "has '{name}': the name of a variant has letters, digits, '.', '_' and '-', 1 to \
                         {LONGEST_VARIANT}"
                    );
                    return Some(("variants".to_owned(), problem));
                }
                let (field, problem) = if variant.variants.is_empty() {
                    variant.own_problem()?
                } else {
                    ("variants".to_owned(), "cannot be set: a variant has no variants".to_owned())
                };
                Some((format!("variants.{name}.{field}"), problem))
            })
        })
    }

    fn own_problem(&self) -> Option<(String, String)> {
        let file = |field: &'static str, path: Option<&PathBuf>| {
            let missing = path.filter(|path| !path.is_file())?;
            Some((field, format!("names {}, which is no file", missing.display())))
        };
        let plain = self
            .alias_problem()
            .or_else(|| self.size_problem())
            .or_else(|| file("chat_template", self.chat_template.as_ref()))
            .or_else(|| file("projector", self.projector.as_ref()))
            .map(|(field, problem)| (field.to_owned(), problem));
        let within = |table: &str, found: Option<(&'static str, String)>| {
            found.map(|(field, problem)| (format!("{table}.{field}"), problem))
        };
        plain
            .or_else(|| within("sampling", self.sampling.problem()))
            .or_else(|| within("engine_options", self.engine_options.problem()))
    }

    fn alias_problem(&self) -> Option<(&'static str, String)> {
        let wrong = self.aliases.iter().find(|alias| !is_alias(alias))?;
        Some((
            "aliases",
            format!(
                "has '{wrong}': an alias has letters and digits of any script and ._/:+~-, 1 to {LONGEST_ALIAS} \
                 bytes, and does not begin with -; or it is {CATCH_ALL}, which is every other name"
            ),
        ))
    }

    fn size_problem(&self) -> Option<(&'static str, String)> {
        if let Some(tokens) = self.context_length.filter(|tokens| !(1..=MOST_TOKENS).contains(tokens)) {
            return Some(("context_length", format!("cannot be {tokens}: 1 to {MOST_TOKENS} may be set")));
        }
        if let Some(slots) = self.slots.filter(|slots| !(1..=1024).contains(slots)) {
            return Some(("slots", format!("cannot be {slots}: 1 to 1024 may be set")));
        }
        if self.engine.as_ref().is_some_and(|engine| engine.trim().is_empty()) {
            return Some(("engine", "is empty: \"auto\" leaves the choice to the hive".to_owned()));
        }
        let long = self.system_prompt.as_ref().map(String::len).filter(|bytes| *bytes > LONGEST_PROMPT)?;
        Some(("system_prompt", format!("has {long} bytes; {LONGEST_PROMPT} may be set")))
    }

    /// The aliases of the model and of its variants, with the name of the variant.
    pub fn all_aliases(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let of_variants = self.variants.iter().flat_map(|(name, variant)| {
            variant.aliases.iter().map(move |alias| (alias.as_str(), Some(name.as_str())))
        });
        self.aliases.iter().map(|alias| (alias.as_str(), None)).chain(of_variants)
    }

    /// The paths of files in the settings.
    pub(super) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let of_variants = self
            .variants
            .values_mut()
            .flat_map(|variant| variant.chat_template.iter_mut().chain(&mut variant.projector));
        self.chat_template.iter_mut().chain(&mut self.projector).chain(of_variants)
    }

    /// The files that the settings name.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let each = [self].into_iter().chain(self.variants.values());
        each.flat_map(|settings| [&settings.chat_template, &settings.projector])
            .flatten()
            .map(PathBuf::as_path)
    }
}

/// The first thing that is wrong with the settings of all models, in words that name the table and the setting.
pub(crate) fn problem(models: &BTreeMap<String, ModelSettings>) -> Option<String> {
    for (id, model) in models {
        if let Some((field, problem)) = model.problem() {
            return Some(format!("[models.\"{id}\"] {field} {problem}"));
        }
    }
    alias_taken_twice(models)
}

/// An alias that means two models, or that is the id of another model with settings.
pub(crate) fn alias_taken_twice(models: &BTreeMap<String, ModelSettings>) -> Option<String> {
    let mut holders: BTreeMap<&str, String> = BTreeMap::new();
    for (id, model) in models {
        for (alias, variant) in model.all_aliases() {
            let holder = served_id(id, variant);
            if models.contains_key(alias) {
                return Some(format!("[models.\"{id}\"] aliases has '{alias}', which is the id of a model"));
            }
            if let Some(other) = holders.insert(alias, holder.clone()) {
                return Some(format!(
                    "[models.\"{id}\"] aliases gives '{alias}' to '{holder}', and it is an alias of '{other}' already"
                ));
            }
        }
    }
    None
}

/// The id under which requests name a model, or a variant of it.
#[must_use]
pub fn served_id(id: &str, variant: Option<&str>) -> String {
    variant.map_or_else(|| id.to_owned(), |variant| format!("{id}@{variant}"))
}

fn is_variant_name(name: &str) -> bool {
    (1..=LONGEST_VARIANT).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The grammar of ids, without the `@` that a variant stands behind.
fn is_alias(alias: &str) -> bool {
    alias == CATCH_ALL
        || (1..=LONGEST_ALIAS).contains(&alias.len())
            && !alias.starts_with('-')
            && alias.chars().all(|c| c.is_alphanumeric() || "._/:+~-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::error::Code;

    fn refusal(settings: &str) -> String {
        match toml::from_str::<Config>(settings) {
            Ok(config) => {
                let failure = config.validate().unwrap_err();
                assert_eq!((failure.code, failure.hint.is_some()), (Code::ConfigInvalid, true), "{settings}");
                failure.message
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_setting_of_a_model_is_read() {
        let all = r#"
            [models."org/m:Q4"]
            aliases = ["qwen", "qwen:latest", "Модель"]
            engine = "llama-server"
            device = "cuda:0"
            context_length = 4096
            slots = 2
            idle = "5m"
            pinned = true
            preload = true
            sampling = { temperature = 0.6, top_p = 0.9, top_k = 20, min_p = 0, repeat_penalty = 1.1,
                         presence_penalty = 0.5, frequency_penalty = -0.5, seed = 7, max_tokens = 500 }
            system_prompt = "You are kind."
            engine_options = { flash_attention = "on", kv_type = "q8_0", gpu_layers = 10, cpu_moe_layers = 2,
                               threads = 4, batch_size = 1024, ubatch_size = 256, rope_scaling = "yarn",
                               rope_scale = 4, rope_freq_base = 1000000, yarn_orig_ctx = 32768 }
            [models."org/m:Q4".variants.long]
            aliases = ["qwen-long"]
            context_length = 32768
            idle = -1
            [models.other]
            idle = 0
        "#;
        let config: Config = toml::from_str(all).unwrap();
        config.validate().unwrap();
        let model = &config.models["org/m:Q4"];
        assert_eq!(model.variants["long"].idle, Some(KeepAlive::Forever));
        assert_eq!(config.models["other"].idle, Some(KeepAlive::For(std::time::Duration::ZERO)));
        let json = serde_json::to_value(model).unwrap();
        assert_eq!(serde_json::from_value::<ModelSettings>(json).unwrap(), *model, "JSON has the same");
        let aliases: Vec<_> = model.all_aliases().collect();
        assert_eq!(aliases.last(), Some(&("qwen-long", Some("long"))));
        assert_eq!(
            model.engine_options.flags()[..3],
            [
                ("--flash-attn", "on".into()),
                ("--cache-type-k", "q8_0".into()),
                ("--cache-type-v", "q8_0".into())
            ]
        );
    }

    #[test]
    fn settings_of_models_that_cannot_work_are_refused_by_table_and_name() {
        for (wrong, named) in [
            ("chat_template = \"/no/such.jinja\"", "chat_template names /no/such.jinja, which is no file"),
            ("projector = \"/no/such.gguf\"", "projector names /no/such.gguf"),
            ("context_length = 0", "context_length cannot be 0: 1 to 16777216"),
            ("slots = 0", "slots cannot be 0"),
            ("engine = \"\"", "engine is empty"),
            ("aliases = [\"a b\"]", "aliases has 'a b'"),
            ("aliases = [\"a@b\"]", "aliases has 'a@b'"),
            ("aliases = [\"-a\"]", "aliases has '-a'"),
            ("aliases = [\"a*\"]", "aliases has 'a*'"),
            ("sampling.temperature = -1.0", "sampling.temperature cannot be -1: 0 to 100"),
            ("sampling.top_p = 1.5", "sampling.top_p cannot be 1.5: 0 to 1"),
            ("sampling.max_tokens = 0", "sampling.max_tokens cannot be 0"),
            ("engine_options.threads = 0", "engine_options.threads cannot be 0: 1 to 1024"),
            (
                "engine_options = { batch_size = 8, ubatch_size = 9 }",
                "engine_options.ubatch_size of 9 is more",
            ),
            (
                "engine_options = { kv_type = \"q8_0\", flash_attention = \"off\" }",
                "engine_options.kv_type \"q8_0\" needs flash attention",
            ),
            ("variants.\"a b\".slots = 1", "variants has 'a b'"),
            ("variants.long.slots = 0", "variants.long.slots cannot be 0"),
            ("variants.long.variants.longer.slots = 1", "variants.long.variants cannot be set"),
        ] {
            let message = refusal(&format!("[models.\"org/m:Q4\"]\n{wrong}"));
            assert!(message.starts_with(&format!("[models.\"org/m:Q4\"] {named}")), "{wrong}: {message}");
        }
        for (wrong, named) in [
            ("template = \"x\"", "chat_template"),
            ("idle = \"soon\"", "-1"),
            ("device = \"tpu\"", "cuda:0"),
            ("sampling.temp = 1", "temperature"),
            ("engine_options.log_file = \"/etc/passwd\"", "expected one of `flash_attention`, `kv_type`"),
        ] {
            let message = refusal(&format!("[models.m]\n{wrong}"));
            assert!(message.contains(named), "{wrong}: {message}");
        }
    }

    #[test]
    fn an_alias_means_one_model() {
        for (wrong, named) in [
            (
                "[models.a]\naliases = [\"x\"]\n[models.b]\naliases = [\"x\"]",
                "gives 'x' to 'b', and it is an alias of 'a'",
            ),
            ("[models.a]\naliases = [\"x\"]\nvariants.v.aliases = [\"x\"]", "gives 'x' to 'a@v'"),
            (
                "[models.a]\naliases = [\"*\"]\n[models.b]\naliases = [\"*\"]",
                "gives '*' to 'b', and it is an alias of 'a'",
            ),
            (
                "[models.a]\naliases = [\"b\"]\n[models.b]\nslots = 1",
                "aliases has 'b', which is the id of a model",
            ),
        ] {
            let message = refusal(wrong);
            assert!(message.contains(named), "{wrong}: {message}");
        }
    }
}
