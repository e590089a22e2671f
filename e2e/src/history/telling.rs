//! How a verdict reads: what was proven, who wrote when, and what was lost.

use std::{collections::BTreeSet, fmt, time::Duration};

use super::{Loss, Record, Tenure, Verdict, Violation};

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (writes, images) = (grouped(self.writes), self.images);
        if self.holds() {
            writeln!(
                out,
                "One writer at a time: holds over {writes} acknowledged writes to {images} image(s)."
            )?;
        } else {
            let count = self.violations.len();
            writeln!(out, "VIOLATED {count} time(s) in {writes} acknowledged writes to {images} image(s):")?;
            for violation in &self.violations {
                writeln!(out, "  ✗ {violation}")?;
            }
        }
        self.write_tenures(out)?;
        self.write_losses(out)
    }
}

impl Verdict {
    fn write_tenures(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.tenures.first().map_or(0, |tenure| tenure.first_nanoseconds);
        let width = self.tenures.iter().map(|tenure| tenure.cluster.len()).max().unwrap_or(0);
        let mut before: Option<&Tenure> = None;
        for tenure in &self.tenures {
            let Tenure { cluster, epoch, writes, first_nanoseconds, last_nanoseconds } = tenure;
            let (from, until) = (seconds(first_nanoseconds - start), seconds(last_nanoseconds - start));
            write!(out, "  epoch {epoch:>2}  {cluster:<width$}  {:>9} writes", grouped(*writes))?;
            write!(out, "  {from:>8.3} s to {until:>8.3} s")?;
            if let Some(before) = before.filter(|before| before.last_nanoseconds < *first_nanoseconds) {
                let pause = seconds(first_nanoseconds.saturating_sub(before.last_nanoseconds));
                write!(out, "   {pause:.3} s after the last write of {}", before.cluster)?;
            }
            writeln!(out)?;
            before = Some(tenure);
        }
        Ok(())
    }

    fn write_losses(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.losses.is_empty() {
            return write!(out, "True loss: none, every acknowledged write survived.");
        }
        let images: BTreeSet<&str> = self.losses.iter().map(|loss| loss.image.as_str()).collect();
        let (lost, worst) = (grouped(self.lost_writes()), self.worst_loss().as_secs_f64());
        let (hit, all) = (images.len(), self.images);
        write!(
            out,
            "True loss: {lost} acknowledged writes in {hit} of {all} image(s), at worst {worst:.3} s."
        )?;
        let width = self.losses.iter().map(|loss| loss.image.len()).max().unwrap_or(0);
        for Loss { image, cluster, epoch, acknowledged, lost, window } in &self.losses {
            let (lost, acknowledged) = (grouped(*lost), grouped(*acknowledged));
            let window = window.as_secs_f64();
            write!(
                out,
                "\n  {image:<width$}  {lost:>7} of {acknowledged:>7} writes of {cluster}, epoch {epoch}"
            )?;
            write!(out, "  {window:>8.3} s")?;
        }
        Ok(())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Overlap { earlier, later } => {
                let both = earlier.last_nanoseconds.min(later.last_nanoseconds) - later.first_nanoseconds;
                write!(out, "two writers: {earlier} and {later} both wrote for {:.3} s", seconds(both))
            }
            Violation::EpochWentBack { record, after } => {
                write!(out, "epoch went back: {record} came after a write of epoch {after}")
            }
            Violation::SharedEpoch { epoch, clusters } => {
                let clusters: Vec<&str> = clusters.iter().map(String::as_str).collect();
                write!(
                    out,
                    "one epoch, several writers: {} wrote under epoch {epoch}",
                    clusters.join(" and ")
                )
            }
            Violation::SequenceWentBack { record, after } => {
                write!(out, "sequence went back: {record} was acknowledged after sequence {after}")
            }
            Violation::ImageOutOfOrder { image, before, record } => {
                write!(out, "image {image} is out of order: {record} follows {before}")
            }
            Violation::LostInTheMiddle { record } => {
                write!(
                    out,
                    "lost in the middle: {record} is missing, though later writes of its tenure survived"
                )
            }
            Violation::LostByHolder { record } => {
                write!(out, "lost by its own holder: {record} is missing where it was acknowledged")
            }
        }
    }
}

impl fmt::Display for Tenure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (epoch {})", self.cluster, self.epoch)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { image, cluster, epoch, sequence, .. } = self;
        write!(out, "{image} #{sequence} by {cluster} (epoch {epoch})")
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

/// 12345 as 12,345.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}
