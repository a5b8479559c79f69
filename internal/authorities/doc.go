// Package authorities reads who is trusted to sign certificates: PEM files that
// settings name. It checks no certificate and keeps nothing.
//
// Callers: whatever speaks TLS with somebody of whom a setting says by whom he is
// certified. pkg/upstream and pkg/objectstore, which import nothing of internal/,
// have their own.
package authorities
