//! The settings of single models (`[models."ID"]`).

use std::path::PathBuf;

use serde::Deserialize;

/// What the settings say of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// The file of the chat template to use instead of the model's own.
    pub chat_template: Option<PathBuf>,
}

impl ModelSettings {
    /// The first setting that cannot work, and what is wrong with it.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let template = self.chat_template.as_ref().filter(|template| !template.is_file())?;
        Some(("chat_template", format!("names {}, which is no file", template.display())))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::error::Code;

    #[test]
    fn a_chat_template_that_is_not_there_is_refused_by_name() {
        let wrong = "[models.\"org/m:Q4\"]\nchat_template = \"/no/such.jinja\"";
        let failure = toml::from_str::<Config>(wrong).unwrap().validate().unwrap_err();
        assert_eq!(failure.code, Code::ConfigInvalid);
        assert!(
            failure.message.starts_with("[models.\"org/m:Q4\"] chat_template names /no/such.jinja"),
            "{failure}"
        );
        let misspelt = toml::from_str::<Config>("[models.m]\ntemplate = \"x\"").unwrap_err();
        assert!(misspelt.to_string().contains("chat_template"), "{misspelt}");
    }
}
