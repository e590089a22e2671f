//! How large a claim and its volume are here and at the holder. What was expanded there is expanded here; nothing is ever
//! made smaller.

use proto::VolumeManifest;
use serde_json::Value;

use crate::ailments::{ailment, reason};
use crate::decision::Effect;
use crate::desired::{Next, View};
use crate::parse::text;

const VOLUME_SIZE: &str = "/spec/capacity/storage";
const CLAIM_SIZE: &str = "/spec/resources/requests/storage";

/// Mirroring enlarges the image by itself, so only the objects are behind. Nobody waits for them: an application can be
/// started with a claim that is called too small.
pub fn enlarge(view: &View<'_>, manifest: &VolumeManifest, next: &mut Next) {
    let namespace = view.namespace();
    let name = text(&manifest.persistent_volume, "/metadata/name").unwrap_or_default();
    let (Some(volume), Some(claim)) = (view.world.volume(name), view.world.claim(namespace, &manifest.claim))
    else {
        return;
    };
    let volume_grew = larger(&manifest.persistent_volume, &volume.object, VOLUME_SIZE);
    let claim_grew = larger(&manifest.persistent_volume_claim, &claim.object, CLAIM_SIZE);
    let Some(size) = volume_grew.as_ref().or(claim_grew.as_ref()) else { return };
    let class = claim.storage_class.as_deref().unwrap_or_default();
    if !may_be_expanded(view, class) {
        next.ailments.push(ailment(reason::VOLUME_TOO_SMALL, not_expandable(view, manifest, size, class)));
        return;
    }
    next.ailments.push(ailment(reason::VOLUME_TOO_SMALL, being_enlarged(view, manifest, size)));
    // The volume first: a claim that asks for more than its volume has would have the driver enlarge a mirrored image.
    let fits =
        |grown: &Size| thousandths(&grown.wanted) <= text(&volume.object, VOLUME_SIZE).and_then(thousandths);
    if let Some(Size { here: _, wanted }) = volume_grew {
        next.effects.push(Effect::EnlargeVolume { volume: name.to_owned(), size: wanted });
    } else if let Some(size) = claim_grew.filter(fits) {
        let (namespace, claim) = (namespace.to_owned(), manifest.claim.clone());
        next.effects.push(Effect::EnlargeClaim { namespace, claim, size: size.wanted });
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Size {
    here: String,
    wanted: String,
}

fn larger(wanted: &Value, here: &Value, at: &str) -> Option<Size> {
    let (wanted, here) = (text(wanted, at)?, text(here, at)?);
    let grew = thousandths(wanted)? > thousandths(here)?;
    grew.then(|| Size { here: here.to_owned(), wanted: wanted.to_owned() })
}

fn may_be_expanded(view: &View<'_>, class: &str) -> bool {
    let class = view.world.storage_class(class);
    class.and_then(|class| class.get("allowVolumeExpansion")) == Some(&Value::Bool(true))
}

fn not_expandable(view: &View<'_>, manifest: &VolumeManifest, size: &Size, class: &str) -> String {
    format!(
        "{}: StorageClass {class} does not allow expansion here; set its allowVolumeExpansion to true",
        smaller(view, manifest, size)
    )
}

fn being_enlarged(view: &View<'_>, manifest: &VolumeManifest, size: &Size) -> String {
    format!(
        "{}: it is being enlarged; if this stays, see the events of the claim and the quota of the namespace",
        smaller(view, manifest, size)
    )
}

fn smaller(view: &View<'_>, manifest: &VolumeManifest, size: &Size) -> String {
    let (namespace, Size { here, wanted }) = (view.namespace(), size);
    format!("PersistentVolumeClaim {namespace}/{} has {here} here and {wanted} at its holder", manifest.claim)
}

/// Of a quantity as Kubernetes writes it: digits, and a unit of tens or twos, or an exponent.
fn thousandths(quantity: &str) -> Option<u128> {
    let end = quantity.find(|sign: char| !sign.is_ascii_digit() && sign != '.').unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let parts = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    Some(digits.checked_mul(unit(suffix)?)? / parts)
}

fn unit(suffix: &str) -> Option<u128> {
    let thousandths = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        "Pi" => 1_000 << 50,
        "Ei" => 1_000 << 60,
        _ => {
            let exponent: u32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            10u128.checked_pow(exponent)?.checked_mul(1_000)?
        }
    };
    Some(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_by_what_they_mean() {
        for (smaller, larger) in [
            ("1G", "1Gi"),
            ("1023Mi", "1Gi"),
            ("1.5Gi", "2Gi"),
            ("999M", "1e9"),
            ("1Ti", "1.1T"),
            ("5", "5001m"),
        ] {
            assert!(thousandths(smaller) < thousandths(larger), "{smaller} < {larger}");
        }
        assert_eq!(thousandths("1Gi"), thousandths("1024Mi"));
        assert_eq!(thousandths("1.5Gi"), thousandths("1536Mi"));
        assert_eq!(thousandths("2000M"), thousandths("2G"));
    }

    #[test]
    fn what_is_no_quantity_is_compared_with_nothing() {
        for text in ["", "much", "1 Gi", "1Gib", "-1Gi", "1e", "99999999999999999999999999999999999999Ei"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }
}
