//! A machine, its models, and what will happen to it, all by chance.

use std::sync::Arc;
use std::time::Duration;

use super::chance::Chance;
use crate::config::DeviceKind;
use crate::residency::snapshot::{Amounts, Keep, Placement, Rules};
use crate::workers::Device;

const MIB: u64 = 1 << 20;

pub(super) struct Setting {
    pub(super) rules: Rules,
    pub(super) devices: Vec<DeviceSetting>,
    pub(super) models: Vec<Model>,
    /// What happens, and when.
    pub(super) events: Vec<(Duration, Happening)>,
    pub(super) troubles: Troubles,
}

pub(super) struct DeviceSetting {
    pub(super) device: Device,
    pub(super) capacity: u64,
    pub(super) is_known: bool,
    pub(super) reserve: u64,
    /// What other programs hold at first.
    pub(super) others: u64,
}

pub(super) struct Model {
    /// a, b, c, …
    pub(super) name: Arc<str>,
    pub(super) placements: Vec<Placement>,
    /// What it really takes, in percent of what is estimated.
    pub(super) truth: u64,
    pub(super) load_time: Duration,
    pub(super) slots: usize,
    pub(super) keep: Keep,
    /// How many of its loads fail, in percent.
    pub(super) fails: u64,
}

/// What can go wrong. Each is left out of many runs, so that what holds without it can be checked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Troubles {
    pub(super) crashes: bool,
    pub(super) wrong_estimates: bool,
    pub(super) failed_loads: bool,
    pub(super) other_programs: bool,
    pub(super) leases: bool,
    /// Actions are carried out late.
    pub(super) late: bool,
    pub(super) hang_ups: bool,
    /// People load, unload and change settings.
    pub(super) people: bool,
}

impl Troubles {
    /// Whether answers may end without a decision about it.
    pub(super) fn cut_answers(self) -> bool {
        self.crashes || self.people
    }
}

#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// The client gives up after its patience, and asks again after each answer until that time.
    Request {
        model: usize,
        takes: Duration,
        patience: Option<Duration>,
        again_until: Duration,
    },
    Crash,
    Hang {
        takes: Duration,
    },
    OthersHold {
        device: usize,
        bytes: u64,
    },
    PersonLoads {
        model: usize,
        another: bool,
    },
    PersonUnloads,
    SettingsChange {
        model: usize,
    },
    Lease {
        device: usize,
        bytes: u64,
        takes: Duration,
    },
}

impl Setting {
    pub(super) fn by_chance(chance: &mut Chance) -> Self {
        let troubles = Troubles {
            crashes: chance.percent(30),
            wrong_estimates: chance.percent(30),
            failed_loads: chance.percent(30),
            other_programs: chance.percent(30),
            leases: chance.percent(30),
            late: chance.percent(50),
            hang_ups: chance.percent(40),
            people: chance.percent(40),
        };
        let rules = Rules {
            on_demand: true,
            min_stay: chance.pick(&[0, 1000, 5000, 10_000].map(Duration::from_millis)),
            linger: chance.pick(&[0, 200, 1000].map(Duration::from_millis)),
            drain_limit: chance.pick(&[1000, 10_000, 60_000].map(Duration::from_millis)),
            concurrent_loads: chance.pick(&[1, 2, 2, 3]),
        };
        let devices = devices(chance);
        let models: Vec<_> = (0..1 + chance.index(6))
            .map(|number| Model::by_chance(chance, number, &devices, troubles))
            .collect();
        let mut setting = Self { rules, devices, models, events: Vec::new(), troubles };
        setting.requests(chance);
        setting.happenings(chance);
        setting
    }

    pub(super) fn of_two_models_in_turns(lasts: Duration) -> Self {
        let gpu = Device::Exact { kind: DeviceKind::Cuda, index: 0 };
        let gib = 1000 * MIB;
        let device = DeviceSetting { device: gpu, capacity: 10 * gib, is_known: true, reserve: 0, others: 0 };
        let model = |name: &str| Model {
            name: name.into(),
            placements: vec![Placement { class: 0, needs: vec![(gpu, 8 * gib)] }],
            truth: 100,
            load_time: Duration::from_secs(2),
            slots: 2,
            keep: Keep::UntilNeeded,
            fails: 0,
        };
        let asks = |model| Happening::Request {
            model,
            takes: Duration::from_millis(500),
            patience: None,
            again_until: lasts,
        };
        Self {
            rules: Rules::default(),
            devices: vec![device],
            models: vec![model("a"), model("b")],
            events: (0..8_usize).map(|client| (Duration::ZERO, asks(client % 2))).collect(),
            troubles: Troubles::default(),
        }
    }

    /// Requests in bursts, in turns between models, and now and then.
    fn requests(&mut self, chance: &mut Chance) {
        let mut at = Duration::ZERO;
        let answers = chance.pick(&[100, 1000, 4000]);
        for _ in 0..1 + chance.index(6) {
            at += chance.ms(0..20_000);
            let (count, pause) = (1 + chance.index(12), chance.pick(&[0, 50, 500, 3000]));
            let (first, alternates) = (chance.index(self.models.len()), chance.percent(60));
            for number in 0..count {
                let model = if alternates { (first + number) % self.models.len() } else { first };
                let takes =
                    if chance.percent(3) { chance.ms(10_000..90_000) } else { chance.ms(10..answers) };
                let patience = (self.troubles.hang_ups && chance.percent(30)).then(|| chance.ms(10..15_000));
                let asks_again = chance.percent(5);
                let again_until = if asks_again { at + chance.ms(0..180_000) } else { Duration::ZERO };
                let takes = if asks_again { takes.max(Duration::from_millis(400)) } else { takes };
                self.events.push((at, Happening::Request { model, takes, patience, again_until }));
                at += chance.ms(0..pause + 1);
            }
        }
    }

    fn happenings(&mut self, chance: &mut Chance) {
        let end =
            self.events.last().map_or(1000, |(at, _)| u64::try_from(at.as_millis()).unwrap_or(u64::MAX))
                + 5000;
        let troubles = self.troubles;
        for _ in 0..chance.index(6) {
            let (device, model) = (chance.index(self.devices.len()), chance.index(self.models.len()));
            let capacity = self.devices[device].capacity;
            let mut events = Vec::new();
            if troubles.crashes {
                events.push(Happening::Crash);
                events.push(Happening::Hang { takes: chance.ms(100..20_000) });
            }
            if troubles.other_programs {
                events.push(Happening::OthersHold { device, bytes: chance.number(0..capacity * 2 / 3) });
            }
            if troubles.people {
                events.push(Happening::PersonLoads { model, another: chance.percent(20) });
                events.push(Happening::PersonUnloads);
                events.push(Happening::SettingsChange { model });
            }
            if troubles.leases {
                let bytes = chance.number(1..capacity);
                events.push(Happening::Lease { device, bytes, takes: chance.ms(100..60_000) });
            }
            if !events.is_empty() {
                let event = chance.pick(&events);
                self.events.push((chance.ms(0..end), event));
            }
        }
    }
}

fn devices(chance: &mut Chance) -> Vec<DeviceSetting> {
    let gpus = u32::try_from(chance.index(3)).unwrap_or(0);
    let devices = (0..gpus).map(|index| Device::Exact { kind: DeviceKind::Cuda, index });
    let device = |device, chance: &mut Chance| {
        let capacity = chance.number(4..25) * 1000 * MIB;
        DeviceSetting {
            device,
            capacity,
            is_known: !chance.percent(10),
            reserve: chance.pick(&[0, 0, 500 * MIB]),
            others: chance.number(0..capacity / 5),
        }
    };
    devices.chain([Device::CPU]).map(|name| device(name, chance)).collect()
}

impl Model {
    fn by_chance(chance: &mut Chance, number: usize, devices: &[DeviceSetting], troubles: Troubles) -> Self {
        let bytes = chance.number(1..13) * 1000 * MIB;
        let keep = chance.pick(&[
            Keep::For(Duration::ZERO),
            Keep::For(Duration::from_secs(3)),
            Keep::For(Duration::from_secs(60)),
            Keep::For(Duration::from_secs(60)),
            Keep::UntilNeeded,
            Keep::Pinned,
        ]);
        Self {
            name: char::from(b'a' + u8::try_from(number).unwrap_or(0)).to_string().into(),
            placements: placements(chance, devices, bytes),
            truth: if troubles.wrong_estimates { chance.number(70..130) } else { 100 },
            load_time: chance.ms(50..8000),
            slots: 1 + chance.index(4),
            keep,
            fails: if troubles.failed_loads { chance.pick(&[0, 20, 100]) } else { 0 },
        }
    }
}

/// Each GPU alone, two together, a GPU and the processor, and the processor; sometimes only one of them.
fn placements(chance: &mut Chance, devices: &[DeviceSetting], bytes: u64) -> Vec<Placement> {
    if chance.percent(3) {
        return vec![Placement { class: 0, needs: Amounts::new() }];
    }
    let gpus: Vec<_> =
        devices.iter().map(|device| device.device).filter(|device| *device != Device::CPU).collect();
    let mut placements: Vec<_> =
        gpus.iter().map(|gpu| Placement { class: 0, needs: vec![(*gpu, bytes)] }).collect();
    if let [one, two] = gpus[..] {
        placements.push(Placement { class: 1, needs: vec![(one, bytes / 2), (two, bytes / 2)] });
    }
    if let Some(gpu) = gpus.first()
        && chance.percent(30)
    {
        placements.push(Placement { class: 2, needs: vec![(*gpu, bytes / 2), (Device::CPU, bytes / 2)] });
    }
    placements.push(Placement { class: 3, needs: vec![(Device::CPU, bytes)] });
    if chance.percent(30) {
        placements = vec![chance.pick(&placements)];
    }
    placements
}
