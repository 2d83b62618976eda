module github.com/deltaplane/deltaplane/examples/audit-subscriber

go 1.26.0

require (
	github.com/deltaplane/deltaplane v0.0.0
	github.com/nats-io/nats.go v1.55.0
	google.golang.org/protobuf v1.36.12
)

replace github.com/deltaplane/deltaplane => ../..
