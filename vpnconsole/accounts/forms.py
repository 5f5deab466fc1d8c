"""Forms for logging in, users and what they may do, one's own password and API tokens."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.password_validation import password_validators_help_texts

from vpnconsole.accounts.access import Access
from vpnconsole.accounts.models import User


class LoginForm(AuthenticationForm):
    """User name and password."""

    error_messages = {
        **AuthenticationForm.error_messages,
        "invalid_login": "User name and password do not belong together. Both are case-sensitive.",
    }


class NewPasswordForm(forms.Form):
    """A password typed twice; the rules stand beside it."""

    password = forms.CharField(
        label="Password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )
    password_again = forms.CharField(
        label="The same password again",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rules = " ".join(password_validators_help_texts())
        # Django speaks to the person whose password it is; here it may be somebody else's.
        rules = rules.replace("Your password", "It").replace("your other personal information", "the user name")
        self.fields["password"].help_text = rules

    def clean(self) -> dict[str, Any]:
        """Refuse two different passwords."""
        values = super().clean() or {}
        first, second = values.get("password"), values.get("password_again")
        if first and second and first != second:
            self.add_error("password_again", "The two passwords differ.")
        return values


class FirstUserForm(NewPasswordForm):
    """The set-up page: the first user of a new console."""

    username = forms.CharField(
        label="User name",
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "username", "autofocus": True}),
    )
    field_order = ["username", "password", "password_again"]


class NewUserForm(NewPasswordForm):
    """A further user, whom an administrator gives a first password."""

    username = forms.CharField(
        label="User name",
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    field_order = ["username", "password", "password_again"]


class AccessForm(forms.Form):
    """What a person may do."""

    administrator = forms.BooleanField(
        label="Administrator",
        required=False,
        help_text="May do everything, this page included.",
    )
    capture = forms.BooleanField(
        label="Captures and traces",
        required=False,
        help_text="May capture and trace, and so see what people send through tunnels and who speaks with whom. "
        "Administrators may anyway.",
    )
    active = forms.BooleanField(
        label="May log in",
        required=False,
        help_text="Without it their sessions end and their API tokens are refused; nothing else is lost.",
    )

    def wanted(self) -> Access:
        """Return what was chosen, once the form is valid."""
        return Access(**self.cleaned_data)


class GivenPasswordForm(NewPasswordForm):
    """A new password for somebody else; ``tokens`` is how many API tokens of theirs work."""

    revoke_tokens = forms.BooleanField(label="Revoke their API tokens too", required=False)

    def __init__(self, *args: Any, tokens: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["password"].label = "New password"
        if tokens:
            count = f"There is {tokens}" if tokens == 1 else f"There are {tokens}"
            self.fields["revoke_tokens"].help_text = f"{count}; without this they go on working."
        else:
            del self.fields["revoke_tokens"]


class OwnPasswordForm(NewPasswordForm):
    """A new password, allowed by the present one."""

    present = forms.CharField(
        label="Present password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )
    field_order = ["present", "password", "password_again"]

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["password"].label = "New password"
        self.user = user

    def clean_present(self) -> str:
        """Check the present password."""
        present: str = self.cleaned_data["present"]
        if not self.user.check_password(present):
            raise forms.ValidationError("This is not your present password.")
        return present


class TokenForm(forms.Form):
    """A new API token."""

    name = forms.CharField(
        label="Name", max_length=100, help_text="What will use it, for instance the monitoring host's name."
    )
    days = forms.TypedChoiceField(
        label="Valid for",
        coerce=int,
        initial=90,
        choices=[(30, "30 days"), (90, "90 days"), (365, "one year"), (0, "until revoked")],
    )
