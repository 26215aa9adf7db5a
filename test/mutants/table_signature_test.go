//go:build mutants

package mutants

// signatureMutants change package signature.
var signatureMutants = []mutant{
	// 3. Nothing unverified is stored.
	{
		3, "verification", "pkg/signature Verifier.match",
		drop("VerifyIgnoringTimestamp"),
		"ingress TestPromise3_NothingUnverifiedIsStored",
	},
	{
		3, "the tolerance", "pkg/signature Verifier.Verify",
		drop("inTime"),
		"pkg/signature TestVerify_ReportsTheToleranceOnlyForAMatchingSignature",
	},
	{
		3, "a limit to the future", "pkg/signature Verifier.inTime",
		swap("a < -t", "a < -1000*t"),
		"pkg/signature TestVerify_ReportsTheToleranceOnlyForAMatchingSignature",
	},
	{
		3, "a minimum length of keys", "pkg/signature minKeyBytes",
		swap("24", "1"),
		"pkg/signature TestParseKey",
	},
	{
		3, "refusing ids whose lines differ", "pkg/signature single",
		swap("l != m[0]", `l == ""`),
		"ingress TestPromise3_NothingUnverifiedIsStored",
	},
	{
		3, "keeping the families of headers apart", "pkg/signature Verifier.Read",
		swap("readFamily(h[i], t, s)", `readFamily(append(h[i], h["Svix-Id"]...)[:1], t, s)`),
		"pkg/signature TestVerify",
	},

	// 8. Every refusal says why in the log and metrics only.
	{
		8, "hiding the key in errors", "pkg/signature ParseKey",
		swap("fmt.Errorf(f, len(b), n)", `fmt.Errorf("key whsec_%s has %d bytes, at least %d are needed", base64.StdEncoding.EncodeToString(b), len(b), n)`),
		"pkg/signature TestParseKey",
	},
}
