//! Measures the calls that a gRPC server answers, each until its last word.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http_body::{Body, Frame, SizeHint};
use opentelemetry::metrics::Histogram;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

use crate::declaration::{Declaration, Kind};
use crate::meter::Meter;

/// For the list of each binary that answers calls. Name, attributes and buckets are those of OpenTelemetry's semantic
/// conventions.
pub const CALL_DURATION: Declaration = Declaration {
    name: "rpc.server.call.duration",
    kind: Kind::Histogram(&[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]),
    unit: "s",
    attributes: &["rpc.system.name", "rpc.method", "rpc.response.status_code"],
    meaning: "How long a call took that this process answered; a stream is one call for as long as it lasts.",
};

/// What a caller may make up is told as one method.
const OTHER_METHOD: &str = "_OTHER";
/// The end of a call whose caller, or whose connection, went away.
const CANCELLED: &str = "CANCELLED";

/// A layer for a gRPC server. The default one measures nothing.
#[derive(Clone, Debug, Default)]
pub struct CallDurations(Option<Recorder>);

#[derive(Clone, Debug)]
struct Recorder {
    durations: Histogram<f64>,
    methods: &'static [&'static str],
}

impl CallDurations {
    /// `methods` are the full names of those that are served, as in `dr.v1.Peer/Probe`.
    pub fn new(meter: &Meter, methods: &'static [&'static str]) -> CallDurations {
        CallDurations(Some(Recorder { durations: CALL_DURATION.histogram(meter), methods }))
    }
}

impl<S> Layer<S> for CallDurations {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { inner, recorder: self.0.clone() }
    }
}

/// A service whose calls are measured.
#[derive(Clone, Debug)]
pub struct Measured<S> {
    inner: S,
    recorder: Option<Recorder>,
}

impl<S, A, B> Service<Request<A>> for Measured<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<MeasuredBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let mut call = Call::begin(self.recorder.clone(), request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            call.note_status(response.headers());
            Ok(response.map(|inner| MeasuredBody { inner, call }))
        })
    }
}

/// An answer's body, which knows when the call is over.
#[derive(Debug)]
pub struct MeasuredBody<B> {
    inner: B,
    call: Call,
}

impl<B: Body + Unpin> Body for MeasuredBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.note_status(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// One call, told when it is dropped: however it ends, it ends once.
#[derive(Debug)]
struct Call {
    recorder: Option<Recorder>,
    method: &'static str,
    began: Instant,
    status: &'static str,
}

impl Call {
    fn begin(recorder: Option<Recorder>, path: &str) -> Call {
        let asked = path.trim_start_matches('/');
        let methods = recorder.as_ref().map_or(&[][..], |recorder| recorder.methods);
        let method = methods.iter().find(|known| **known == asked).copied().unwrap_or(OTHER_METHOD);
        Call { recorder, method, began: Instant::now(), status: CANCELLED }
    }

    /// The status stands in the headers of an answer without a body, else in its trailers.
    fn note_status(&mut self, fields: &HeaderMap) {
        if let Some(code) = fields.get("grpc-status") {
            self.status = status_name(code.as_bytes());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(recorder) = &self.recorder {
            let attributes = CALL_DURATION.attributes(["grpc", self.method, self.status]);
            recorder.durations.record(self.began.elapsed().as_secs_f64(), &attributes);
        }
    }
}

/// By the numbers of gRPC's status codes.
fn status_name(code: &[u8]) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        CANCELLED,
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let number = std::str::from_utf8(code).ok().and_then(|text| text.parse::<usize>().ok());
    number.and_then(|number| NAMES.get(number)).copied().unwrap_or("UNKNOWN")
}
