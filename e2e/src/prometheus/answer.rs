//! What the HTTP interface of Prometheus answers, as far as it is read here.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A series by its labels, with its values over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub labels: BTreeMap<String, String>,
    pub points: Vec<Point>,
}

/// A value at a moment, in seconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub at: f64,
    pub value: f64,
}

impl Series {
    /// A label, or nothing where there is none.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The points that say something: a division by zero does not.
    pub fn told(&self) -> impl DoubleEndedIterator<Item = &Point> {
        self.points.iter().filter(|point| !point.value.is_nan())
    }
}

/// One kind of thing that can be scraped under a metric's name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Meta {
    #[serde(rename = "type")]
    pub kind: String,
    pub unit: String,
    pub help: String,
}

/// A series with what leads from it to traces.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traced {
    pub series_labels: BTreeMap<String, String>,
    pub exemplars: Vec<Exemplar>,
}

/// One measurement, as a text, and its trace among the labels.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Exemplar {
    pub labels: BTreeMap<String, String>,
    pub value: String,
    pub timestamp: f64,
}

pub type Metadata = BTreeMap<String, Vec<Meta>>;

/// Who is scraped, and whether the last scrape went well.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    pub health: String,
    pub last_error: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Targets {
    pub active_targets: Vec<Target>,
}

/// An alert that is pending or fires.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StandingAlert {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub state: String,
}

#[derive(Debug, Deserialize)]
pub struct StandingAlerts {
    pub alerts: Vec<StandingAlert>,
}

/// Around every answer.
#[derive(Debug, Deserialize)]
pub struct Answer<T> {
    pub data: Option<T>,
    pub error: Option<String>,
}

/// What a query yields. Its values are texts, as JSON has no infinity.
#[derive(Debug, Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
pub enum Outcome {
    Vector(Vec<Sample>),
    Matrix(Vec<Row>),
    Scalar((f64, String)),
}

#[derive(Debug, Deserialize)]
pub struct Sample {
    metric: BTreeMap<String, String>,
    value: (f64, String),
}

#[derive(Debug, Deserialize)]
pub struct Row {
    metric: BTreeMap<String, String>,
    values: Vec<(f64, String)>,
}

impl Outcome {
    pub fn into_series(self) -> Result<Vec<Series>> {
        match self {
            Outcome::Vector(samples) => samples
                .into_iter()
                .map(|sample| Ok(Series { labels: sample.metric, points: vec![point(&sample.value)?] }))
                .collect(),
            Outcome::Matrix(rows) => rows
                .into_iter()
                .map(|row| {
                    let points = row.values.iter().map(point).collect::<Result<_>>()?;
                    Ok(Series { labels: row.metric, points })
                })
                .collect(),
            Outcome::Scalar(value) => {
                Ok(vec![Series { labels: BTreeMap::new(), points: vec![point(&value)?] }])
            }
        }
    }
}

fn point((at, value): &(f64, String)) -> Result<Point> {
    let value = value.parse().with_context(|| format!("{value} is no number"))?;
    Ok(Point { at: *at, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(answer: &str) -> Vec<Series> {
        let answer: Answer<Outcome> = serde_json::from_str(answer).expect("an answer");
        answer.data.expect("data").into_series().expect("numbers")
    }

    #[test]
    fn a_vector_a_matrix_and_a_scalar_are_all_series() {
        let vector = r#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"cluster":"east"},"value":[1784000000.25,"1.5"]}]}}"#;
        assert_eq!(series(vector)[0].label("cluster"), "east");
        assert_eq!(series(vector)[0].points, [Point { at: 1_784_000_000.25, value: 1.5 }]);
        let matrix = r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{},"values":[[1,"0"],[2,"+Inf"],[3,"NaN"]]}]}}"#;
        let told: Vec<f64> = series(matrix)[0].told().map(|point| point.value).collect();
        assert_eq!(told, [0.0, f64::INFINITY]);
        let scalar = r#"{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}"#;
        assert_eq!(series(scalar)[0].points[0].value, 7.0);
    }

    #[test]
    fn an_error_is_told_and_has_no_data() {
        let refused = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        let answer: Answer<Outcome> = serde_json::from_str(refused).expect("an answer");
        assert!(answer.data.is_none() && answer.error.as_deref() == Some("parse error"));
    }
}
