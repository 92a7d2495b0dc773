//! What a running hive takes over from the file of its settings, read again.

use super::file::RELOADABLE;
use super::settings::Config;
use crate::error::{Failure, Result};

impl Config {
    /// These settings, with those of `read` in their place that a running hive takes over.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`](crate::error::Code::ConfigInvalid) if a path is not UTF-8.
    pub(crate) fn taking_over(&self, read: &Self) -> Result<Self> {
        let (mut own, mut read) = (self.to_json()?, read.to_json()?);
        for name in RELOADABLE {
            let place = format!("/{}", name.replace('.', "/"));
            if let (Some(own), Some(read)) = (own.pointer_mut(&place), read.pointer_mut(&place)) {
                *own = read.take();
            }
        }
        let taken: Self = serde_json::from_value(own)
            .map_err(|error| Failure::internal("could not put the settings together").detail(error))?;
        let (file, given, faults) = (self.file.clone(), self.given.clone(), self.faults.clone());
        Ok(Self { file, given, faults, ..taken })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_over_is_what_counts_as_reloadable() {
        let text = "port = 2\n[jobs]\nkeep_acts = 2\nqueue = 2\n[downloads]\nbytes_per_second = 2\nallow_hosts = [\"a\"]\n\
                    [workers]\nthreads = 2\nlifeline = true\n[residency]\nidle = 2\nqueue = 2\n[gateway]\n\
                    body_limit = 2048\n[memory]\nreserve = { cpu = 2 }\n[models.m]\nslots = 2\n[timers]\nsilence = \"2s\"";
        let read: Config = toml::from_str(text).unwrap();
        let taken = Config::default().taking_over(&read).unwrap().settings().unwrap();
        let defaults = Config::default().settings().unwrap();
        let mut both = [0, 0];
        for setting in read.settings().unwrap() {
            let of = |settings: &[crate::config::Setting]| {
                settings.iter().find(|other| other.name == setting.name).map(|other| other.value.clone())
            };
            let (default, taken) = (of(&defaults), of(&taken));
            if default.as_ref() != Some(&setting.value) {
                both[usize::from(setting.reloadable)] += 1;
                let expected = if setting.reloadable { Some(setting.value) } else { default };
                assert_eq!(taken, expected, "{}", setting.name);
            }
        }
        assert_eq!(both, [6, 7]);
        let names: Vec<_> = defaults.iter().map(|setting| setting.name.as_str()).collect();
        for known in RELOADABLE.iter().filter(|known| **known != "models") {
            assert!(names.iter().any(|name| name.starts_with(known)), "{known} is no setting");
        }
    }
}
