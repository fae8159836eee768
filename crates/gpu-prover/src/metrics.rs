//! Metrics of devices, labelled by their numbers.

use crate::device::Device;
use plonk_prover::{Stage, Stages};
use std::time::Duration;
use vise::{Counter, EncodeLabelSet, EncodeLabelValue, Family, Gauge, Global, Metrics, Unit};

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DeviceLabels {
    pub(crate) device: String,
}

/// How a circuit on a device ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[metrics(rename_all = "snake_case")]
pub(crate) enum CircuitOutcome {
    /// With a proof that verifies.
    Proven,
    /// Not for this device: the CPU proves it, or nobody.
    Refused,
    /// The device failed.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabels {
    pub(crate) device: String,
    pub(crate) outcome: CircuitOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StageLabels {
    device: String,
    stage: &'static str,
}

/// Which way something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[metrics(rename_all = "snake_case")]
pub(crate) enum Way {
    ToDevice,
    FromDevice,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WayLabels {
    device: String,
    way: Way,
}

/// What devices do.
#[derive(Debug, Metrics)]
#[metrics(prefix = "device")]
pub(crate) struct DeviceMetrics {
    /// 1 for a device that is in service, 0 for one that is out of it until its process is started again.
    pub(crate) in_service: Family<DeviceLabels, Gauge<u64>>,
    /// Circuits that a device was given, by outcome: proven, refused (the CPU proves it) or failed (so does it).
    pub(crate) circuits: Family<OutcomeLabels, Counter>,
    /// Seconds that a device worked on circuits: its rate is the share of the time that it was busy.
    pub(crate) busy_seconds: Family<DeviceLabels, Counter<f64>>,
    /// Seconds by stage of a proof.
    pub(crate) stage_seconds: Family<StageLabels, Counter<f64>>,
    /// Witnesses that were on a device, or on their way, before it had finished the proof before.
    pub(crate) uploaded_ahead: Family<DeviceLabels, Counter>,
    /// Bytes of a device's memory that were taken at the start.
    #[metrics(unit = Unit::Bytes)]
    pub(crate) arena_size: Family<DeviceLabels, Gauge<u64>>,
    /// Bytes of these that circuits keep between their proofs.
    #[metrics(unit = Unit::Bytes)]
    pub(crate) arena_used: Family<DeviceLabels, Gauge<u64>>,
    /// The most of these that was in use at a time.
    #[metrics(unit = Unit::Bytes)]
    pub(crate) arena_most_used: Family<DeviceLabels, Gauge<u64>>,
    /// Bytes that were copied to and from a device.
    #[metrics(unit = Unit::Bytes)]
    pub(crate) transferred: Family<WayLabels, Counter>,
    /// Bytes of a device's memory that anybody uses, as NVIDIA's management library tells.
    #[metrics(unit = Unit::Bytes)]
    pub(crate) memory_used: Family<DeviceLabels, Gauge<u64>>,
    /// A device's temperature, as the library tells.
    #[metrics(unit = Unit::Celsius)]
    pub(crate) temperature: Family<DeviceLabels, Gauge<f64>>,
    /// Watts that a device draws, as the library tells.
    pub(crate) power_watts: Family<DeviceLabels, Gauge<f64>>,
    /// Errors of a device that its driver reports (Xid), as the library tells.
    pub(crate) xid_errors: Family<DeviceLabels, Counter>,
}

#[vise::register]
pub(crate) static DEVICE_METRICS: Global<DeviceMetrics> = Global::new();

impl DeviceLabels {
    pub(crate) fn of(ordinal: u32) -> Self {
        Self { device: ordinal.to_string() }
    }
}

/// Shows a device that is in service and has not done anything yet: a counter that is not there is not 0.
pub(crate) fn begin(ordinal: u32, arena: usize) {
    let (labels, metrics) = (DeviceLabels::of(ordinal), &DEVICE_METRICS);
    metrics.in_service[&labels].set(1);
    for outcome in [CircuitOutcome::Proven, CircuitOutcome::Refused, CircuitOutcome::Failed] {
        metrics.circuits[&OutcomeLabels { device: labels.device.clone(), outcome }].inc_by(0);
    }
    metrics.uploaded_ahead[&labels].inc_by(0);
    metrics.arena_size[&labels].set(arena as u64);
    metrics.arena_most_used[&labels].set(0);
    add(ordinal, &Stages::default(), Duration::ZERO, [0, 0]);
}

/// What a circuit took of a device.
pub(crate) fn observe(device: &Device, stages: &Stages, took: Duration) {
    add(device.ordinal(), stages, took, device.take_transferred());
    let (labels, arena) = (DeviceLabels::of(device.ordinal()), device.arena());
    DEVICE_METRICS.arena_used[&labels].set(arena.used as u64);
    DEVICE_METRICS.arena_most_used[&labels].set(arena.most_used as u64);
}

fn add(ordinal: u32, stages: &Stages, took: Duration, transferred: [u64; 2]) {
    let (labels, metrics) = (DeviceLabels::of(ordinal), &DEVICE_METRICS);
    metrics.busy_seconds[&labels].inc_by(took.as_secs_f64());
    for stage in Stage::ALL {
        let labels = StageLabels { device: labels.device.clone(), stage: stage.name() };
        metrics.stage_seconds[&labels].inc_by(stages.of(stage).as_secs_f64());
    }
    for (way, bytes) in [Way::ToDevice, Way::FromDevice].into_iter().zip(transferred) {
        metrics.transferred[&WayLabels { device: labels.device.clone(), way }].inc_by(bytes);
    }
}
