package signature_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/signature"
)

// The documented vector of Svix and Standard Webhooks.
const (
	vectorKey       = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorTimestamp = "1614265330"
	vectorBody      = `{"test": 2432232314}`
	vectorSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

var vectorTime = time.Unix(1614265330, 0)

func parse(t testing.TB, s string) signature.Key {
	t.Helper()
	k, err := signature.ParseKey(s)
	if err != nil {
		t.Fatalf("ParseKey: %v", err)
	}
	return k
}

// key returns the n-th of a row of different keys.
func key(t testing.TB, n int) signature.Key {
	t.Helper()
	return parse(t, "whsec_"+base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "the bytes of test key %06d", n)))
}

func TestKey_SignsTheDocumentedVector(t *testing.T) {
	t.Parallel()
	got := parse(t, vectorKey).Sign(vectorID, vectorTime, []byte(vectorBody))
	if got != vectorSignature {
		t.Errorf("Sign(…) = %s; want %s", got, vectorSignature)
	}
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	long := base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	tests := []struct {
		name string
		in   string
		want string // a part of the error, "" for a valid key
	}{
		{"24 bytes", vectorKey, ""},
		{"32 bytes, padded", "whsec_" + long, ""},
		{"white space around it, as a file has it", "\t " + vectorKey + "\r\n", ""},
		{"a byte order mark before it, as some editors write", "\uFEFF" + vectorKey + "\r\n", ""},
		{"empty", "", "key is empty"},
		{"white space only", " \n", "key is empty"},
		{"prefix only", "whsec_", "empty after whsec_"},
		{"prefix missing", strings.TrimPrefix(vectorKey, "whsec_"), "does not begin with whsec_"},
		{"prefix in capitals", "WHSEC_" + long, "does not begin with whsec_"},
		{"an asymmetric key", "whsk_" + long, "asymmetric"},
		{"the public half of one", "whpk_" + long, "asymmetric"},
		{"a signature of one", "v1a," + long, "asymmetric"},
		{"a public key of one with its version in front", "v1a,whpk_" + long, "asymmetric"},
		{"v1 in front", "v1," + vectorKey, "from whsec_ on"},
		{"quotes around it", `"` + vectorKey + `"`, "quotes"},
		{"two keys in one", vectorKey + "\n" + vectorKey, "one key at a time"},
		{"broken by a line end", vectorKey[:20] + "\n" + vectorKey[20:], "one key at a time"},
		{"base64url", "whsec_" + strings.Repeat("-_8A", 8), "base64url"},
		{"not base64", "whsec_" + strings.Repeat("*", 32), "not standard base64"},
		{"cut in the middle of a group", vectorKey[:len(vectorKey)-1], "not standard base64"},
		{"padding lost", "whsec_" + strings.TrimRight(long, "="), "not standard base64"},
		{"one byte short", "whsec_" + base64.StdEncoding.EncodeToString([]byte("23 bytes are too short.")), "23 bytes long, at least 24"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, err := signature.ParseKey(tt.in)
			if tt.want == "" {
				if err != nil || k.Fingerprint() == "" {
					t.Fatalf("ParseKey = %q, %v; want a key", k.Fingerprint(), err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("ParseKey = %v; want an error that says %q", err, tt.want)
			}
			if secret := strings.TrimSpace(strings.TrimPrefix(tt.in, "whsec_")); len(secret) > 8 && strings.Contains(err.Error(), secret[len(secret)-8:]) {
				t.Errorf("the error gives a part of the key away: %v", err)
			}
			if k.Fingerprint() != "" {
				t.Errorf("Fingerprint of a refused key = %q; want none", k.Fingerprint())
			}
		})
	}
}

func TestKey_FingerprintIsShortAndStable(t *testing.T) {
	t.Parallel()
	if got := parse(t, vectorKey).Fingerprint(); !regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(got) {
		t.Errorf("Fingerprint() = %q; want 8 hexadecimal digits", got)
	}
	if got, want := parse(t, " "+vectorKey).Fingerprint(), parse(t, vectorKey).Fingerprint(); got != want {
		t.Errorf("Fingerprint() = %q; want that of the same key, %q", got, want)
	}
}

func TestKey_IsNeverPrinted(t *testing.T) {
	t.Parallel()
	k := parse(t, vectorKey)
	secret := strings.TrimPrefix(vectorKey, "whsec_")
	raw, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	v := signature.NewVerifier(time.Minute, nil, k)
	type settings struct {
		Key      signature.Key
		Keys     []signature.Key
		private  signature.Key
		verifier *signature.Verifier
	}
	all := settings{k, []signature.Key{k}, k, v}

	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%T"} {
		for _, value := range []any{k, &k, all, &all, v} {
			fmt.Fprintf(&out, verb+"\n", value)
		}
	}
	fmt.Fprintln(&out, k.String())
	for _, value := range []any{k, &k, all, v} {
		b, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	seen, logs := observer.New(zap.DebugLevel)
	for _, encoder := range []zapcore.Encoder{
		zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()),
		zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()),
	} {
		log := zap.New(zapcore.NewTee(seen, zapcore.NewCore(encoder, zapcore.AddSync(&out), zap.DebugLevel)))
		log.Info("key", zap.Any("key", k), zap.Stringer("stringer", k), zap.Reflect("all", all), zap.Any("v", v))
		log.Sugar().Infow("key", "key", k, "all", all)
	}
	for _, entry := range logs.All() {
		fmt.Fprint(&out, entry.ContextMap())
	}

	text := out.String()
	if !strings.Contains(text, k.Fingerprint()) {
		t.Errorf("the fingerprint %s is nowhere in what was printed", k.Fingerprint())
	}
	decimal := strings.Trim(fmt.Sprint(raw[:4]), "[]") // as a slice of bytes is printed
	for _, leak := range []string{secret, secret[8:], string(raw), hex.EncodeToString(raw), hex.EncodeToString(raw[:6]), decimal} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(leak)) {
			t.Errorf("a key was printed, as %q…", leak[:4])
		}
	}
}

func TestKey_ZeroValueVerifiesNothing(t *testing.T) {
	t.Parallel()
	var none signature.Key
	if got := none.Fingerprint() + none.String() + none.Sign("msg_1", vectorTime, nil); got != "" {
		t.Errorf("a zero Key prints or signs %q; want nothing", got)
	}
	if got := signature.NewVerifier(time.Minute, nil, none).Keys(); len(got) != 0 {
		t.Errorf("Keys() = %v; want none", got)
	}
}

func TestNewID_HasTheFormOfSvix(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^msg_[0-9A-Za-z]{27}$`)
	seen := map[string]bool{}
	for range 1000 {
		id := signature.NewID()
		if !form.MatchString(id) || seen[id] {
			t.Fatalf("NewID() = %q; want a new id that matches %s", id, form)
		}
		seen[id] = true
	}
}
