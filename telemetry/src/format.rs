//! In which of its two text formats Prometheus is answered: it says which it understands, and how much it likes each.

/// Both tell the same series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, version 0.0.4.
    Text,
    /// Version 1.0, which alone has exemplars.
    OpenMetrics,
}

impl Format {
    /// What whoever sends this `Accept` likes best; its own format where that is all the same.
    pub fn accepted(accept: &str) -> Format {
        let liked = |format: Format| {
            accept.split(',').filter(|range| format.is_meant(range)).map(quality).fold(0.0, f64::max)
        };
        let open_metrics = liked(Format::OpenMetrics);
        if open_metrics > 0.0 && open_metrics >= liked(Format::Text) {
            Format::OpenMetrics
        } else {
            Format::Text
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => prometheus::TEXT_FORMAT,
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Whoever takes anything takes the text.
    fn is_meant(self, range: &str) -> bool {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let version = parameter(range, "version");
        match self {
            Format::Text => ["text/plain", "text/*", "*/*"].iter().any(|one| media.eq_ignore_ascii_case(one)),
            Format::OpenMetrics => {
                media.eq_ignore_ascii_case("application/openmetrics-text")
                    && version.is_none_or(|version| version == "1.0.0")
            }
        }
    }
}

fn quality(range: &str) -> f64 {
    parameter(range, "q").and_then(|quality| quality.parse().ok()).unwrap_or(1.0)
}

fn parameter<'a>(range: &'a str, name: &str) -> Option<&'a str> {
    let parameters = range.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let mut found = parameters.filter(|(its, _)| its.trim().eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Prometheus 3 asks, unless it is told otherwise.
    const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
         application/openmetrics-text;version=0.0.1;q=0.5,\
         text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

    #[test]
    fn whoever_likes_open_metrics_at_least_as_much_gets_it() {
        for accept in [
            PROMETHEUS,
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; version=\"1.0.0\"; charset=utf-8",
            "text/plain, application/openmetrics-text",
        ] {
            assert_eq!(Format::accepted(accept), Format::OpenMetrics, "{accept}");
        }
    }

    #[test]
    fn everybody_else_gets_the_text() {
        for accept in [
            "",
            "*/*",
            "text/plain;version=0.0.4",
            "text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0",
            "text/plain;version=0.0.4;q=0.6, application/openmetrics-text;version=1.0.0;q=0.5",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
        ] {
            assert_eq!(Format::accepted(accept), Format::Text, "{accept}");
        }
    }
}
