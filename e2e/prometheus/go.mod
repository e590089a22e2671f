// The real Prometheus, and promtool. A module of its own: its dependencies agree neither with those of Kubernetes nor with those
// of csi-addons.
module understudy.dev/e2e/prometheus

go 1.26.7

require github.com/prometheus/prometheus v0.316.0
